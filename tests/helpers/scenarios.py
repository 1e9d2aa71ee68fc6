"""Small runs that are stopped and resumed in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.runs import Notes, PlannedPolicy, germinate, make_run, notes_of, same, seed_command, weights

from esper.leyline import CommandKind
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl

LONG = {
    "optimization__max_epochs": 4,
    "checkpoint__save_checkpoints": True,
    "checkpoint__checkpoint_frequency": 1,
    "checkpoint__max_checkpoints": 99,
    "morphogenetic__max_params_ratio": 99.0,
    "optimization__scheduler_params": {"warmup_steps": 4},
}
SCENARIOS: dict[str, tuple[dict[int, Any], dict[str, Any]]] = {
    "no growth": ({}, {}),
    # a blend of nine steps is in progress at the end of epoch 2, and in the middle of every epoch
    "blend": ({1: [germinate()]}, {"morphogenetic__seed__blend_steps": 9}),
    "isolation": ({1: [germinate()]}, {"morphogenetic__seed__isolation_steps": 9}),
    "gated": ({1: [germinate()]}, {"morphogenetic__seed__blend_mode": "gated"}),
    "reversed": (
        {1: [germinate()], 2: [seed_command(CommandKind.CULL, number=2)], 3: [germinate("block2", number=3)]},
        {"morphogenetic__seed__blend_steps": 15, "morphogenetic__seed__embargo_epochs": 1},
    ),
    "accumulation": (
        {1: [germinate()]},
        {"optimization__accumulation_steps": 4, "optimization__gradient_clip_norm": 0.5},
    ),
    "fp16": ({1: [germinate()]}, {"mixed_precision": "fp16"}),
    "dropout": (
        {1: [germinate("body.fc1", "mlp")]},
        {
            "model__architecture": "mlp",
            "model__model_params": {"hidden": [16], "dropout": 0.3},
            "model__target_layers": ["body.fc1"],
        },
    ),
    "sgd": ({2: [germinate("block2")]}, {"optimization__optimizer": "sgd"}),
    "inside": (
        {0: [germinate()]},
        {"morphogenetic__decision_interval_steps": 4, "morphogenetic__health_signal_interval": 2},
    ),
}


def make_scenario(
    run_dir: Path, name: str, *, notes: Notes | None = None, run_control: RunControl | None = None
) -> TrainingLoop:
    commands, options = SCENARIOS[name]
    return make_run(
        run_dir, tamiyo=PlannedPolicy(commands), notes=notes, run_control=run_control, **LONG | options
    )


def path_of(run_dir: Path, name: str) -> Path:
    return run_dir / "checkpoints" / name


def alike(resumed: TrainingLoop, whole: TrainingLoop) -> bool:
    """Whether a resumed run ended exactly as the one that was never stopped."""
    epochs = notes_of(resumed).comparable()
    return (
        epochs == notes_of(whole).comparable()[-len(epochs) :]
        and same(weights(resumed.model), weights(whole.model))
        and comparable(resumed) == comparable(whole)
        and same(resumed.best.weights, whole.best.weights)
        and resumed.precision.state_dict() == whole.precision.state_dict()
    )


def comparable(run: TrainingLoop) -> dict[str, Any]:
    """The state of a run without times."""
    _, state = run.state.capture()
    for name in ("wall_s", "cpu_s"):
        del state["run"]["progress"][name]
    for name in ("growth", "health"):  # latencies
        state.pop(name, None)
    return state


class StopsAt(Notes):
    """A progress callback that requests a stop after `steps` steps."""

    def __init__(self, run_control: RunControl, steps: int) -> None:
        super().__init__()
        self.run_control = run_control
        self.at = steps

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        if len(self.places) == self.at:
            self.run_control.stop("sigterm")
