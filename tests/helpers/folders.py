"""Small runs of the trainer, in folders whose content is compared before and after."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import small_config
from rich.console import Console

from esper.config import TolariaConfig
from esper.errors import ConfigError
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer

AUTO = {"checkpoint__resume_from_checkpoint": "auto"}


def config(**options: Any) -> TolariaConfig:
    given: dict[str, Any] = {
        "logging__log_level": "ERROR",
        "checkpoint__save_checkpoints": True,
        "checkpoint__checkpoint_frequency": 1,
        "optimization__max_epochs": 1,
        "morphogenetic__tamiyo_enabled": False,
    }
    return small_config(**given | options)


def run(folder: Path, **options: Any) -> str:
    """The console output of a run."""
    message = io.StringIO()
    TolariaTrainer(
        config(**options), run_dir=folder, context=RunContext(console=Console(file=message, width=200))
    ).run_training()
    return message.getvalue()


def refused(folder: Path, **options: Any) -> str:
    before = content(folder)
    with pytest.raises(ConfigError) as caught:
        run(folder, **options)
    assert content(folder) == before, "a rejected run changes nothing"
    (problem,) = caught.value.problems
    return problem


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
