"""What stands beside the state of a run in whatever is kept of it: where it was, and what it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from esper.config import TolariaConfig
from esper.tolaria.components import TrainingComponents
from esper.tolaria.train_state import Progress
from esper.utils.device_and_rng import versions


class Metadata:
    """Makes the header of a snapshot or a checkpoint, and compares a saved one with this process."""

    def __init__(self, config: TolariaConfig, parts: TrainingComponents) -> None:
        self.records = parts.records
        # the same all the time, and some of it read from the disk
        self._fixed: dict[str, Any] = {
            "config": config.to_dict(),
            "data": asdict(parts.data),  # what the model was made to fit; the data may be gone one day
            "versions": versions(),
        }

    def make(self, progress: Progress, records: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The header for this moment: JSON. `records` replaces what the records say of themselves."""
        return {
            **self._fixed,
            "progress": progress.to_json(),
            "records": self.records.state() if records is None else records,
            "threads": torch.get_num_threads(),
        }

    def other_splits(self, saved: Mapping[str, Any]) -> list[str]:
        """Options by which the saved run split its data otherwise than this one does."""
        then, now = saved["config"], self._fixed["config"]
        names = ("name", "validation_split", "test_split", "dataset_params")
        differing = [f"dataset.{n}" for n in names if then["dataset"][n] != now["dataset"][n]]
        return differing + (["seed"] if then["seed"] != now["seed"] else [])

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """A sentence for each thing that numbers depend on and that is another one now."""
        then = {"threads": saved["threads"], **saved["versions"]}
        now = {"threads": torch.get_num_threads(), **self._fixed["versions"]}
        return [f"{name} was {then.get(name)}, is {now[name]}" for name in now if then.get(name) != now[name]]


def position(progress: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where a run stands: an epoch whose last step is done is not yet one that is over."""
    return progress["step"], progress["epoch"], progress["batch"]


# The names that `name_of` returns.
CHECKPOINT_NAME = re.compile(r"epoch-\d{4,}(-batch-\d{6,})?")


def name_of(progress: Mapping[str, Any]) -> str:
    """The name of a checkpoint taken there; by name they sort as they were taken."""
    _, epoch, batch = position(progress)
    return f"epoch-{epoch:04d}" + (f"-batch-{batch:06d}" if batch else "")
