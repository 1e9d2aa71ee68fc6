"""What a run leaves at its end: the final model, the summaries, the picture; each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.config import TolariaConfig
from esper.data import DataInfo
from esper.errors import CheckpointError, OutputError
from esper.kasmina import MorphableModel
from esper.utils.safetensors import load_tensors, write_tensors_atomic


class BestEffortWriter:
    """Tries every write that a run ends with, so that one which fails does not take the others with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Within the block an `OSError` (a full disk) is noted as a problem of `what`."""
        try:
            yield
        except (OSError, CheckpointError) as error:
            self.problems.append(f"{what} could not be written: {error}")

    def check(self, stopped_by: str = "") -> None:
        """Raise `OutputError` with everything that failed."""
        if self.problems:
            raise OutputError(self.problems, stopped_by)


def save_model(path: Path, model: MorphableModel, config: TolariaConfig, data: DataInfo) -> None:
    """Write weights, buffers and topology to one safetensors file, with what a host is built from.

    Equal models of equal configurations give equal bytes. Raises `OSError`; the old file then stands.
    """
    # how the run was begun is not what the model is
    plain = replace(
        config, run_dir=None, checkpoint=replace(config.checkpoint, resume_from_checkpoint=None)
    ).to_dict()
    note = json.dumps({"metadata": {"config": plain, "data": asdict(data)}}, sort_keys=True)
    write_tensors_atomic(path, model.state_dict(), {"esper": note})


def read_model(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any], Mapping[str, Any]]:
    """State dict, configuration and data of a file that `save_model` wrote. Raises `CheckpointError`."""
    tensors, note = load_tensors(path)
    config, data = note.get("config"), note.get("data")
    if not isinstance(config, dict) or not isinstance(data, dict):
        raise CheckpointError(
            f"{path} holds weights, but not of which model; expected a run folder, a checkpoint, or the "
            "final model that a run of Esper has written"
        )
    return tensors, config, data
