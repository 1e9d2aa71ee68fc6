from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.leyline import Event, EventName, Level
from esper.loggers import RunInfo


@pytest.fixture
def make_info(tmp_path: Path) -> Callable[..., RunInfo]:
    """What a small run says of itself; keyword arguments change it."""

    def make(**changes: Any) -> RunInfo:
        facts: dict[str, Any] = {
            "session_name": "little",
            "run_dir": tmp_path,
            "config": {
                "seed": 0,
                "optimization": {"learning_rate": 0.01, "betas": [0.9, 0.99]},
                "device": None,
            },
            "max_epochs": 4,
            "steps_per_epoch": 10,
            "samples_per_epoch": 320,
            "params_host": 100,
            "start_step": 0,
        }
        return RunInfo(**{**facts, **changes})

    return make


@pytest.fixture
def make_epoch() -> Callable[..., dict[str, Any]]:
    """An epoch's record as Tolaria sends it."""

    def make(epoch: int, **changes: Any) -> dict[str, Any]:
        record = {
            "epoch": epoch,
            "step": 10 * epoch,
            "train_loss": 1.0 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_loss": 1.1 / epoch,
            "val_accuracy": 1 - 0.6 / epoch,
            "epoch_time": 0.5,
            "learning_rate": 0.01,
            "morphogenetic_active": True,
            "active_seeds": 1,
            "total_seeds": 4,
            "kernel_executions": 10,
            "params": 100 + epoch,
            "seeds": [{"layer": "f.1", "seed": 0, "blueprint": "mlp", "stage": "blending", "alpha": 0.25}],
        }
        return {**record, **changes}

    return make


@pytest.fixture
def make_move() -> Callable[..., Event]:
    """A seed_stage event."""

    def make(old: str, new: str, *, step: int = 10, **changes: Any) -> Event:
        data = {"layer": "f.1", "seed": 0, "blueprint": "mlp", "placement": "series", "params": 64}
        data |= {"from": old, "to": new, "reason": "the gate was open", **changes}
        return Event(1.5, EventName.SEED_STAGE, Level.INFO, step, step // 10, data)

    return make


@pytest.fixture
def make_command() -> Callable[..., Event]:
    """An adaptation event; with `refusal` a refused one."""

    def make(**changes: Any) -> Event:
        data = {"command_id": "c1", "kind": "germinate", "layer": "f.1", "seed": 0, "blueprint": "mlp"}
        data |= {"confidence": 0.9, "urgency": 0.625, "reason": "loss is flat", "evidence": {}, **changes}
        name = EventName.ADAPTATION_REFUSED if "refusal" in data else EventName.ADAPTATION_APPLIED
        return Event(1.0, name, Level.INFO, 10, 1, data)

    return make
