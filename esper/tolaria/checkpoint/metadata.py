"""Metadata of snapshots and checkpoints: configuration, data, versions and the position of the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from esper.config import TolariaConfig
from esper.errors import CheckpointError
from esper.tolaria.components import TrainingComponents
from esper.tolaria.train_state import Progress
from esper.utils.device_and_rng import versions


class Metadata:
    """Makes the metadata of a snapshot or a checkpoint, and compares saved metadata with this process."""

    def __init__(self, config: TolariaConfig, components: TrainingComponents) -> None:
        self.records = components.records
        # constant during a run, and partly read from the disk
        self._fixed: dict[str, Any] = {
            "config": config.to_dict(),
            "data": asdict(components.data),  # the shapes that the model was built for
            "versions": versions(),
        }

    def make(self, progress: Progress, records: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The metadata of the present position, as JSON; `records` replaces the records' own state."""
        return {
            **self._fixed,
            "progress": progress.to_json(),
            "records": self.records.state() if records is None else records,
            "threads": torch.get_num_threads(),
        }

    def check_splits(
        self, saved: Mapping[str, Any], on_mismatch: Callable[[str], None] | None = None
    ) -> None:
        """Raise `CheckpointError`, or call `on_mismatch`, if the saved run split its data differently.

        With other splits, samples that the saved run trained on would be used for validation and test.
        """
        then, now = saved["config"], self._fixed["config"]
        names = ("name", "validation_split", "test_split", "dataset_params")
        differing = [f"dataset.{n}" for n in names if then["dataset"][n] != now["dataset"][n]]
        differing += ["seed"] if then["seed"] != now["seed"] else []
        if not differing:
            return
        problem = f"the saved run had other splits of the data: {', '.join(differing)} differ"
        if on_mismatch is None:
            raise CheckpointError(f"{problem}; expected those of the saved run, or strict_loading=false")
        on_mismatch(problem)

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """A clause for each version or thread count that differs and that results may depend on."""
        then = {"threads": saved["threads"], **saved["versions"]}
        now = {"threads": torch.get_num_threads(), **self._fixed["versions"]}
        return [f"{name} was {then.get(name)}, is {now[name]}" for name in now if then.get(name) != now[name]]


def position(progress: Mapping[str, Any]) -> tuple[int, int, int]:
    """The position of a run. After an epoch's last step `epoch` is not yet increased."""
    return progress["step"], progress["epoch"], progress["batch"]


# Matches the names that `name_of` returns.
CHECKPOINT_NAME = re.compile(r"epoch-\d{4,}(-batch-\d{6,})?")


def name_of(progress: Mapping[str, Any]) -> str:
    """The name of the checkpoint of a position; names sort in the order of training."""
    _, epoch, batch = position(progress)
    return f"epoch-{epoch:04d}" + (f"-batch-{batch:06d}" if batch else "")
