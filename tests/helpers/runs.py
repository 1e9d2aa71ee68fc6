"""Small runs with real data, models and components, and records that are kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.config import DatasetConfig, TolariaConfig
from esper.data import DataBundle, build_data
from esper.kasmina import wrap
from esper.leyline import (
    CLOCK_METRICS,
    AdaptationCommand,
    CommandKind,
    Event,
    Outcome,
    SystemStatePacket,
)
from esper.models import build
from esper.runs import schedule_factory
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.components import TrainingComponents
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl
from esper.tolaria.task import pair_adapter
from esper.utils.device_and_rng import seed_everything

CPU = torch.device("cpu")


@dataclass
class Notes:
    """Records and progress callback of a run, which keep everything in memory."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.epochs.append(dict(record))

    def step(self, record: Mapping[str, Any]) -> None:
        self.steps.append(dict(record))

    def event(self, event: Event) -> None:
        self.events.append(event)

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        self.places.append(step_in_epoch)

    def state(self) -> dict[str, Any]:
        return {"epochs": len(self.epochs), "steps": len(self.steps)}

    def sync(self) -> None:
        return

    def rewind(self, state: Mapping[str, Any]) -> None:
        del self.epochs[state["epochs"] :], self.steps[state["steps"] :]

    def rewound(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return dict(state)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def comparable(self) -> list[dict[str, Any]]:
        """The epochs without what reads the clock."""
        return [{k: v for k, v in record.items() if k not in CLOCK_METRICS} for record in self.epochs]


class PlannedPolicy:
    """A policy that returns the planned commands by the number of completed epochs, and records outcomes."""

    def __init__(self, commands: Mapping[int, Sequence[AdaptationCommand]] | None = None) -> None:
        self.commands = dict(commands or {})
        self.packets: list[SystemStatePacket] = []
        self.outcomes: list[Outcome] = []
        self.decisions = 0

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        self.packets.append(packet)
        self.decisions += 1
        return list(self.commands.get(packet.epoch, ()))

    def report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {"decisions": self.decisions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.decisions = state["decisions"]


def germinate(
    layer: str = "block1", blueprint: str = "conv_light", *, number: int = 1, **changes: Any
) -> AdaptationCommand:
    """A command that passes every threshold."""
    command = AdaptationCommand(
        f"test-{number}", CommandKind.GERMINATE, 1.0, 1.0, "a test wants it", layer=layer, blueprint=blueprint
    )
    return replace(command, **changes)


def seed_command(
    kind: CommandKind, layer: str = "block1", *, number: int, **changes: Any
) -> AdaptationCommand:
    """A command for an existing seed."""
    command = AdaptationCommand(f"test-{number}", kind, 1.0, 1.0, "a test wants it", layer=layer)
    return replace(command, **changes)


def small_config(**options: Any) -> TolariaConfig:
    """Three epochs of digits, six batches of 32 each, with decisions; `group__name` sets options."""
    given = {
        "dataset__name": "digits",
        "dataset__test_split": 0.2,
        "model__architecture": "convnet",
        "model__target_layers": ["block1", "block2"],
        "model__model_params": {"widths": [4, 8]},
        "model__seeds_per_layer": 2,
        "optimization__max_epochs": 3,
        "optimization__learning_rate": 0.01,
        "morphogenetic__decision_frequency": 1,
        "morphogenetic__adaptation_cooldown": 0.0,
        "morphogenetic__blueprints": ["conv_light"],
        "morphogenetic__seed__blend_steps": 4,
        "morphogenetic__seed__warmup_steps": 3,
        "morphogenetic__seed__probe_samples": 16,
        "checkpoint__save_checkpoints": False,
        "trainer__limit_train_batches": 6,
        "trainer__limit_val_batches": 2,
        "logging__progress": False,
    }
    return with_options(given | options)


def with_options(options: Mapping[str, Any]) -> TolariaConfig:
    """The defaults with these options, each by its path `group__name`."""
    config = TolariaConfig()
    for path, value in options.items():
        *groups, name = path.split("__")
        owner: Any = config
        for group in groups:
            owner = getattr(owner, group)
        assert hasattr(owner, name), path
        setattr(owner, name, value)
    return config


_LOADED: dict[str, DataBundle] = {}


def load(config: DatasetConfig, seed: int) -> DataBundle:
    """The data, read once per process: loaders have no state."""
    key = f"{seed} {config}"
    if key not in _LOADED:
        _LOADED[key] = build_data(config, seed=seed, device=CPU)
    return _LOADED[key]


def make_components(
    config: TolariaConfig,
    run_dir: Path,
    *,
    tamiyo: Any = None,
    model: nn.Module | None = None,
    notes: Notes | None = None,
    **changes: Any,
) -> TrainingComponents:
    """Real components for `config`, as `esper.runs` makes them."""
    data = load(config.dataset, config.seed)
    seed_everything(config.seed)
    if model is None:
        model = build(
            config.model.architecture,
            num_classes=10,
            channels=1,
            image_size=(8, 8),
            **config.model.model_params,
        )
    notes = notes or Notes()
    o = config.optimization
    kinds = {
        "adam": lambda groups: torch.optim.Adam(groups, lr=o.learning_rate, weight_decay=o.weight_decay),
        "sgd": lambda groups: torch.optim.SGD(groups, lr=o.learning_rate, momentum=o.momentum),
    }
    m = config.model
    parts = TrainingComponents(
        model=wrap(model, m.target_layers, m.seeds_per_layer, seed=config.seed),
        data=data.info,
        train=data.train,
        validation=data.validation,
        test=data.test,
        loss=nn.CrossEntropyLoss(),
        batch_adapter=pair_adapter,
        optimizer=kinds[o.optimizer],
        schedule=schedule_factory(config),
        tamiyo=tamiyo,
        device=CPU,
        records=notes,
        progress_callback=notes,
        run_dir=run_dir,
    )
    return replace(parts, **changes)


def make_run(
    run_dir: Path,
    *,
    tamiyo: Any = None,
    model: nn.Module | None = None,
    notes: Notes | None = None,
    run_control: RunControl | None = None,
    parts: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainingLoop:
    """A run that is ready to train; its notes are `run.components.records`."""
    config = small_config(**options)
    made = make_components(config, run_dir, tamiyo=tamiyo, model=model, notes=notes, **(parts or {}))
    return TrainingLoop(config, made, run_control)


def notes_of(run: TrainingLoop) -> Notes:
    assert isinstance(run.components.records, Notes)
    return run.components.records


def restored(run: TrainingLoop, checkpoint: Path) -> TrainingLoop:
    """The same run, restored from a checkpoint."""
    run.checkpointer.restore(load_checkpoint(checkpoint))
    return run


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights and buffers, without the topology."""
    state = model.state_dict()
    return {name: t.detach().clone() for name, t in state.items() if name != "_extra_state"}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def checkpoints(run: TrainingLoop) -> Iterator[str]:
    return (event.data["name"] for event in notes_of(run).named("checkpoint_saved"))
