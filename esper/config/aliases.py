"""The short names: one table from each to the dotted target it stands for.

Only texts: nothing is imported here, so that a typing error is found without loading torch. A value with
a dot in it is a target itself; `esper.runs` checks and resolves both.
"""

from __future__ import annotations

from collections.abc import Mapping

OPTIMIZERS = {
    "adadelta": "torch.optim.Adadelta",
    "adagrad": "torch.optim.Adagrad",
    "adam": "torch.optim.Adam",
    "adamax": "torch.optim.Adamax",
    "adamw": "torch.optim.AdamW",
    "nadam": "torch.optim.NAdam",
    "radam": "torch.optim.RAdam",
    "rmsprop": "torch.optim.RMSprop",
    "sgd": "torch.optim.SGD",
}

LOSSES = {
    "bce_with_logits": "torch.nn.BCEWithLogitsLoss",
    "cross_entropy": "torch.nn.CrossEntropyLoss",
    "from_model": "esper.tolaria.loss.objectives.from_model",
    "huber": "torch.nn.HuberLoss",
    "l1": "torch.nn.L1Loss",
    "mse": "torch.nn.MSELoss",
    "multi_margin": "torch.nn.MultiMarginLoss",
    "nll": "torch.nn.NLLLoss",
    "smooth_l1": "torch.nn.SmoothL1Loss",
}

SCHEDULERS = {
    "cosine": "esper.tolaria.optimization.lr_schedule.cosine",
    "exponential": "esper.tolaria.optimization.lr_schedule.exponential",
    "none": "esper.tolaria.optimization.lr_schedule.constant",
    "step": "esper.tolaria.optimization.lr_schedule.step",
}

# `sum` is plain accumulation, which needs no aggregator
PLAIN_SUM = "sum"
AGGREGATORS = {
    "mean": "esper.tolaria.gradients.Mean",
    "pcgrad": "esper.tolaria.gradients.PCGrad",
    "weighted": "esper.tolaria.gradients.Weighted",
}

# kinds of accuracy; auto takes the one that loss and shapes give a meaning
METRICS = ("auto", "accuracy", "binary_accuracy", "none")

COMPILE_BACKENDS = ("inductor", "aot_eager", "cudagraphs", "eager")

MODELS = {
    "convnet": "esper.models.convnet.ConvNet",
    "mlp": "esper.models.mlp.MLP",
    "resnet18": "esper.models.resnet.resnet18",
    "resnet34": "esper.models.resnet.resnet34",
    "vit": "esper.models.vit.VisionTransformer",
}

DATASETS = dict.fromkeys(
    ("cifar10", "cifar100", "digits", "fashion_mnist", "image_folder", "mnist", "synthetic"),
    "esper.data.build_data",
)

POLICIES = {
    "heuristic": "esper.tamiyo.HeuristicPolicy",
    "learned": "esper.tamiyo.LearnedPolicy",
    "random": "esper.tamiyo.RandomPolicy",
    "scheduled": "esper.tamiyo.ScheduledPolicy",
}

# The option that holds each kind of name; the policy is named inside a dictionary.
SHORT_NAMES: dict[str, Mapping[str, str]] = {
    "model.architecture": MODELS,
    "dataset.name": DATASETS,
    "dataset.batch_form": {},
    "optimization.optimizer": OPTIMIZERS,
    "optimization.scheduler": SCHEDULERS,
    "optimization.loss_function": LOSSES,
    "optimization.metric": {},
    "trainer.aggregation": AGGREGATORS,
}


def short_name(option: str, target: str) -> str:
    """The short name in the table of `option` that stands for a dotted target; else the target itself."""
    names = [name for name, dotted in SHORT_NAMES[option].items() if dotted == target]
    return names[0] if len(names) == 1 else target
