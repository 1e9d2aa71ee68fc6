"""A small run that has grown, with checkpoints of it, made in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.runs import PlannedPolicy, germinate, make_run

from esper.tolaria.loop import TrainingLoop

SAVING = {
    "optimization__max_epochs": 3,
    "checkpoint__save_checkpoints": True,
    "checkpoint__checkpoint_frequency": 1,
    "morphogenetic__max_params_ratio": 99.0,
    "morphogenetic__seed__blend_steps": 20,
}


def grown_run(folder: Path, **options: Any) -> TrainingLoop:
    """Three epochs, each saved; from the first on a seed is blended in, to the end of the third."""
    run = make_run(folder, tamiyo=PlannedPolicy({1: [germinate()]}), **SAVING | options)
    run.train()
    return run
