"""The groups that say what is trained: model, data, optimisation, and how the model may grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from esper.config import aliases as names
from esper.config.option import (
    COUNT,
    NATURAL,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    choice,
    name_or_target,
    number,
    option,
    url,
    weights_file,
)
from esper.config.serialization import ConfigGroup
from esper.config.targets import is_dotted

_SPLIT = number(ge=0, lt=1)


@dataclass
class ModelConfig(ConfigGroup):
    """The host network and where seeds may be planted in it."""

    TARGET_OPTION: ClassVar[str] = "model.architecture"

    _target_: str | None = option(
        None, "Dotted path of a class or function: takes the place of architecture."
    )
    architecture: str = option(
        "resnet18",
        "The host network: a short name, or the dotted path of a class.",
        name_or_target(names.MODELS),
    )
    num_classes: int | None = option(10, "Number of outputs; null: as the dataset has.", COUNT)
    pretrained: bool | str = option(
        False,
        "File with weights of the host to start from, or false.",
        Rule("false or the path of a .safetensors file", lambda value: value is False or weights_file(value)),
    )
    target_layers: list[str] = option(
        ["nn.Linear"],
        "Layers at which seeds may be planted: types such as nn.Linear, or module paths with *, ? and **; "
        "'.' is the whole network.",
        Rule("at least one type, type name or path pattern", bool),
    )
    seeds_per_layer: int = option(4, "Seed slots at each of these layers.", COUNT)
    cache_size_mb: int = option(
        128, "Limit of the memory for trained kernels that were fetched.", COUNT, unit="MB"
    )
    telemetry_enabled: bool = option(True, "Measure the health of seeds and layers.")
    preserve_original: bool = option(True, "Grow a copy and leave the model that was passed in unchanged.")
    model_params: dict[str, Any] = option({}, "Keyword arguments of the architecture.")


@dataclass
class DatasetConfig(ConfigGroup):
    """Where the data comes from and how it is split and batched."""

    TARGET_OPTION: ClassVar[str] = "dataset.name"

    _target_: str | None = option(None, "Dotted path of a class or function: takes the place of name.")
    name: str = option(
        "cifar10",
        "The dataset: a short name, or the dotted path of a map-style dataset.",
        name_or_target(names.DATASETS),
    )
    data_root: str = option(
        "./data", "Folder of the files, relative to the folder in which the command is started.", TEXT
    )
    download: bool = option(True, "Download files that are missing.")
    batch_size: int = option(32, "Samples in a batch.", COUNT)
    num_workers: int = option(
        4, "Processes that load samples; no effect where the data lives on the device.", NATURAL
    )
    pin_memory: bool = option(True, "Pin the memory of batches; has an effect on CUDA only.")
    shuffle_train: bool = option(True, "Draw a new order of the training samples in every epoch.")
    use_augmentation: bool = option(True, "Augment training images.")
    augmentation_params: dict[str, Any] = option(
        {}, "Replaces the dataset's own augmentation: crop_padding, horizontal_flip, cutout."
    )
    validation_split: float = option(
        0.1, "Share of the training samples that is held out for validation.", _SPLIT
    )
    test_split: float = option(
        0.1, "Share that is held out for the test; no effect where the dataset has a test set.", _SPLIT
    )
    dataset_params: dict[str, Any] = option({}, "Keyword arguments of the dataset.")
    batch_form: str | None = option(
        None,
        "Dotted path of a function from a batch to (args, kwargs, targets); null: a batch is (inputs, "
        "targets).",
        Rule("a dotted target", is_dotted),
    )


@dataclass
class OptimizationConfig(ConfigGroup):
    """Optimiser, learning rate, length of the run, loss."""

    optimizer: str = option(
        "adam",
        "The optimiser: a short name, or the dotted path of a class.",
        name_or_target(names.OPTIMIZERS),
    )
    learning_rate: float = option(1e-3, "Learning rate of the host; the scheduler multiplies it.", POSITIVE)
    weight_decay: float = option(1e-4, "Weight decay, for optimisers that take it.", NATURAL)
    momentum: float = option(0.9, "Momentum, for optimisers that take it.", number(ge=0, lt=1))
    optimizer_params: dict[str, Any] = option({}, "Further keyword arguments of the optimiser.")
    scheduler: str = option(
        "cosine",
        "Schedule of the learning rate: a short name, or the dotted path of a function.",
        name_or_target(names.SCHEDULERS),
    )
    scheduler_params: dict[str, Any] = option(
        {}, "Keyword arguments of the scheduler, and warmup_steps and warmup_floor."
    )
    max_epochs: int = option(100, "Length of the run.", COUNT, unit="epochs")
    early_stopping_patience: int = option(
        10,
        "End the run after so many epochs without a better validation loss; 0: never.",
        NATURAL,
        unit="epochs",
    )
    early_stopping_min_delta: float = option(
        1e-4,
        "A validation loss counts as better if it is lower by more than this.",
        NATURAL,
        unit="units of the loss",
    )
    loss_function: str = option(
        "cross_entropy",
        "The loss: a short name, or the dotted path of a class or of a function of (output, targets).",
        name_or_target(names.LOSSES),
    )
    loss_params: dict[str, Any] = option({}, "Keyword arguments of the loss.")
    metric: str = option(
        "auto",
        "Kind of accuracy (auto: the one that fits loss and shapes), or the dotted path of a class with "
        "update, compute and reset.",
        name_or_target(names.METRICS),
    )
    metric_params: dict[str, Any] = option({}, "Keyword arguments of the metric.")
    gradient_clip_norm: float | None = option(
        None, "Scale gradients down to a norm of at most this; null: no clipping.", POSITIVE
    )
    gradient_clip_scope: str = option(
        "all",
        "Take the norm over host and seeds together (all), or over each parameter group (group).",
        choice("all", "group"),
    )
    accumulation_steps: int = option(
        1, "Batches whose gradients make one optimiser step.", COUNT, unit="batches"
    )


@dataclass
class SeedConfig(ConfigGroup):
    """Lifecycle of a seed: isolation, blending, learning rates, embargo."""

    isolation_steps: int = option(
        0, "Train a new seed alone for so long, the host unchanged; 0: blend at once.", NATURAL, unit="steps"
    )
    isolation_learning_rate: float = option(1e-3, "Learning rate of a seed that trains alone.", POSITIVE)
    blend_steps: int = option(
        100, "Length of the blend, in which alpha grows from 0 to 1.", NATURAL, unit="steps"
    )
    blend_schedule: str = option(
        "linear", "Curve of alpha over the blend.", choice("linear", "cosine", "sigmoid")
    )
    blend_mode: str = option(
        "additive",
        "What is added to the layer's output: alpha times the seed's output (additive), or that times a "
        "learned gate for each channel (gated).",
        choice("additive", "gated"),
    )
    learning_rate_scale: float = option(
        1.0, "Learning rate of a seed, as a multiple of optimization.learning_rate.", POSITIVE
    )
    warmup_steps: int = option(100, "Warm-up of the learning rate of a new seed.", NATURAL, unit="steps")
    probation_epochs: int = option(
        1, "Epochs after the blend before a seed may be fossilised.", NATURAL, unit="epochs"
    )
    embargo_epochs: int = option(
        5, "How long a slot stays empty after its seed was culled.", NATURAL, unit="epochs"
    )
    probe_samples: int = option(
        32, "First samples of the validation split on which health, shapes and FLOPs are measured.", COUNT
    )
    impact_samples: int = option(
        0,
        "Validation samples on which a network is compared with a seed and without it; 0: the whole split.",
        NATURAL,
    )


@dataclass
class MorphogeneticConfig(ConfigGroup):
    """When and how far the host may grow."""

    tamiyo_enabled: bool = option(True, "Whether the network may grow.")
    tamiyo_url: str | None = option(
        None, "Address of a policy service; null: the top-level tamiyo_url.", url("http", "https")
    )
    policy: dict[str, Any] = option(
        {"_target_": "heuristic"},
        "The policy (_target_: a short name or a dotted path) and its arguments; see the group "
        "morphogenetic/policy.",
    )
    blueprints: list[str] = option(
        ["mlp", "low_rank", "conv_light", "conv_heavy", "depthwise", "squeeze_excite", "conv_branch"],
        "Kinds of module that seeds are made of: names of blueprints, or dotted paths.",
    )
    max_params_ratio: float = option(
        4.0, "Limit of the parameters after growth, as a multiple of the host's.", number(ge=1)
    )
    max_flops_ratio: float | None = option(
        None, "Limit of the FLOPs of a forward, as a multiple of the host's; null: none.", number(ge=1)
    )
    decision_frequency: int = option(
        5, "Epochs between decisions at the end of an epoch.", COUNT, unit="epochs"
    )
    decision_interval_steps: int | None = option(
        None,
        "Steps between decisions inside an epoch; null: see decision_interval_epochs.",
        COUNT,
        unit="steps",
    )
    decision_interval_epochs: float | None = option(
        None,
        "The same as a share of an epoch, where decision_interval_steps is null; null: none inside an epoch.",
        number(gt=0, le=1),
    )
    max_adaptations_per_epoch: int = option(
        2, "Limit of the commands that are applied in one epoch.", NATURAL
    )
    adaptation_cooldown: float = option(
        30.0,
        "Time after a command in which none is applied; above 0, growth depends on the machine's speed.",
        NATURAL,
        unit="s",
    )
    adaptation_cooldown_epochs: int = option(
        0, "Epochs after a command in which none is applied.", NATURAL, unit="epochs"
    )
    confidence_threshold: float = option(0.7, "A command with a smaller confidence is refused.", SHARE)
    urgency_threshold: float = option(0.5, "A command with a smaller urgency is refused.", SHARE)
    lookahead_steps: int = option(
        0,
        "Train a copy with each candidate of a shortlist for so long, and take the best; 0: take the first.",
        NATURAL,
        unit="steps",
    )
    health_signal_interval: int = option(1, "Epochs between health signals.", COUNT, unit="epochs")
    performance_window: int = option(10, "Epochs of history in a state packet.", COUNT, unit="epochs")
    enable_blueprint_generation: bool = option(
        False,
        "Not available in this version.",
        Rule("false: blueprint generation is not available in this version", lambda value: value is False),
    )
    blueprint_generation_frequency: int = option(
        50, "Epochs between generations of blueprints; not available in this version.", COUNT, unit="epochs"
    )
    seed: SeedConfig = field(default_factory=SeedConfig)
