"""Hosts of every kind, each with a way to train, and a plan of growth; whole runs in little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from helpers import zoo_layers, zoo_state
from helpers.runs import with_options
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from esper.config import TolariaConfig
from esper.kasmina import MorphableModel
from esper.leyline import SeedStage
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer

QUIET = Console(quiet=True)
EPOCHS = 2


def points(split: str = "train") -> TensorDataset:
    """Points (8,) and the largest of their first three coordinates."""
    generator = torch.Generator().manual_seed(len(split))
    x = torch.randn(64 if split == "train" else 24, zoo_layers.WIDTH, generator=generator)
    return TensorDataset(x, x[:, : zoo_layers.CLASSES].argmax(1))


def two_inputs(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    x, y = batch
    return (x, x.flip(1)), {"scale": 2.0}, y


def dict_input(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    x, y = batch
    return ({"x": x},), {}, y


def scores_of(output: Any) -> Tensor:
    """The scores in a host's output, whatever its form."""
    if isinstance(output, tuple):
        return output[0]
    return output["scores"] if isinstance(output, Mapping) else getattr(output, "scores", output)


class ScoresLoss(nn.Module):
    """Cross entropy of the scores in any output."""

    def forward(self, output: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(scores_of(output).float(), targets)


@dataclass(frozen=True)
class Case:
    """A host, the layer where a seed is germinated, and how it is fed."""

    make: Callable[[], nn.Module]
    layer: str = "body"
    blueprint: str = "mlp"
    form: str | None = None
    optimizer: str = "adam"
    # whether a seed can grow in it, and whether it learns at all without one
    grows: bool = True
    learns: bool = True

    def host(self) -> nn.Module:
        torch.manual_seed(1)
        return self.make()


LSTM, GRU = nn.LSTM, nn.GRU
CASES = {
    "plain": Case(zoo_layers.Plain),
    "weight_norm": Case(zoo_layers.parametrized("weight_norm")),
    "spectral_norm": Case(zoo_layers.parametrized("spectral_norm")),
    "orthogonal": Case(zoo_layers.parametrized("orthogonal")),
    "old weight_norm": Case(zoo_layers.reparametrized("weight_norm")),
    "old spectral_norm": Case(zoo_layers.reparametrized("spectral_norm")),
    "tied": Case(zoo_layers.Tied),
    "shared": Case(zoo_layers.Shared),
    "unused": Case(zoo_layers.Unused),
    "lazy": Case(zoo_layers.Lazy),
    "lazy convolution": Case(zoo_layers.LazyConvolution, blueprint="conv_light"),
    "scripted": Case(zoo_layers.scripted, "inp"),
    "traced": Case(zoo_layers.traced, "head"),
    "lstm": Case(partial(zoo_layers.Recurrent, LSTM)),
    "gru": Case(partial(zoo_layers.Recurrent, GRU, num_layers=2, dropout=0.1)),
    "time first": Case(zoo_layers.TimeFirst),
    "attention": Case(zoo_layers.Attention),
    "encoder": Case(zoo_layers.Encoder),
    "checkpointed": Case(partial(zoo_layers.Checkpointed, reentrant=False)),
    "checkpointed reentrant": Case(partial(zoo_layers.Checkpointed, reentrant=True)),
    "in place": Case(zoo_layers.InPlace),
    "norms": Case(zoo_layers.Norms, blueprint="conv_light"),
    "frozen norm": Case(zoo_layers.FrozenNorm),
    "embeddings": Case(partial(zoo_layers.Embeddings, sparse=False)),
    "sparse embeddings": Case(partial(zoo_layers.Embeddings, sparse=True), optimizer="sgd"),
    "convolutions": Case(zoo_layers.Convolutions, blueprint="conv_light"),
    "nested": Case(zoo_layers.Nested, "inner.a/b.0"),
    "deep": Case(zoo_layers.deep),
    "functional": Case(zoo_layers.Functional, "."),
    "own function": Case(zoo_layers.OwnFunction),
    "hooked": Case(zoo_layers.Hooked),
    "remembering": Case(zoo_layers.Remembering),
    "two inputs": Case(zoo_state.TwoInputs, form="two_inputs"),
    "dict input": Case(zoo_state.DictInput, form="dict_input"),
    "dict output": Case(zoo_state.DictOutput),
    "tuple output": Case(zoo_state.TupleOutput),
    "dataclass output": Case(zoo_state.DataclassOutput),
    "frozen": Case(zoo_state.frozen, learns=False),
    "partly frozen": Case(zoo_state.partly_frozen),
    "thawing": Case(zoo_state.Thawing),
    "parameterless": Case(zoo_state.Parameterless, grows=False, learns=False),  # twice nothing is no room
    "complex": Case(zoo_state.Complex),
    "double": Case(zoo_state.Double),
    "mixed types": Case(zoo_state.MixedTypes),
    "integer weights": Case(zoo_state.IntegerWeights),
    "extra state": Case(zoo_state.ExtraState),
    "growing buffer": Case(zoo_state.GrowingBuffer),
    "late buffers": Case(zoo_state.LateBuffers),
    "transient": Case(zoo_state.Transient),
    "counting": Case(zoo_state.Counting),
    "slots": Case(zoo_state.slotted),
}


def config(case: Case, run_dir: Path, **options: Any) -> TolariaConfig:
    """Four steps per epoch; a seed germinates after the first and has joined before the end of the epoch."""
    here = __name__
    given = {
        "run_dir": str(run_dir),
        "allowed_targets": ["helpers"],
        "dataset__name": f"{here}.points",
        "dataset__batch_form": f"{here}.{case.form}" if case.form else None,
        "dataset__batch_size": 8,
        "dataset__num_workers": 0,
        "dataset__validation_split": 0.25,
        "dataset__use_augmentation": False,
        "trainer__limit_train_batches": 4,
        "model__target_layers": [case.layer],
        "model__seeds_per_layer": 1,
        "optimization__max_epochs": EPOCHS,
        "optimization__learning_rate": 0.02 if case.optimizer == "adam" else 0.1,
        "optimization__optimizer": case.optimizer,
        "optimization__weight_decay": 0.0,
        "optimization__momentum": 0.0,
        "optimization__loss_function": f"{here}.ScoresLoss",
        "morphogenetic__decision_frequency": 1,
        "morphogenetic__decision_interval_steps": 2,
        "morphogenetic__adaptation_cooldown": 0.0,
        "morphogenetic__blueprints": [case.blueprint],
        "morphogenetic__max_params_ratio": 99.0,
        "morphogenetic__seed__isolation_steps": 1,
        "morphogenetic__seed__blend_steps": 1,
        "morphogenetic__seed__warmup_steps": 1,
        "morphogenetic__seed__probation_epochs": 0,
        "morphogenetic__policy": {
            "_target_": "scheduled",
            "seeds": [{"layer": case.layer, "blueprint": case.blueprint, "at_step": 2}],
            "judge": "keep",
        },
        "checkpoint__checkpoint_frequency": 1,
        "logging__log_level": "ERROR",
        "logging__progress": False,
        "logging__track_metrics": False,  # nor is a picture drawn, which takes longer than the run
        "logging__step_interval": 0,
        "logging__save_metrics": False,
        "services__control_socket": False,
    }
    return with_options(given | options)


def trainer(case: Case, run_dir: Path, **options: Any) -> TolariaTrainer:
    return TolariaTrainer(
        config(case, run_dir, **options), model=case.host(), context=RunContext(console=QUIET)
    )


def outputs(case: Case, model: nn.Module, split: str = "test") -> Tensor:
    """The model's scores in eval mode on a part of the data."""
    x, y = points(split).tensors
    forms: Mapping[str | None, Any] = {"two_inputs": two_inputs, "dict_input": dict_input}
    args, kwargs, _ = forms[case.form]((x, y)) if case.form else ((x,), {}, y)
    with torch.no_grad():
        return scores_of(model.eval()(*args, **kwargs))


def train_loss(case: Case, model: nn.Module) -> float:
    """Cross entropy of the model on all the data that it is trained and validated on."""
    return F.cross_entropy(outputs(case, model, "train").float(), points("train").tensors[1]).item()


def fossilize_all(model: MorphableModel) -> None:
    """Bring every living seed to its last stage at full strength, whatever its gates would say."""
    for record in model.alive_records():
        record.stage = SeedStage.FOSSILIZED
        model.seed_module(record).set_alpha(1.0)
    model.sync_stages()
