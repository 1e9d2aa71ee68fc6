"""When a run is saved, under which name, and how it is taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from esper.config import TolariaConfig
from esper.core.runtime import versions
from esper.errors import CheckpointError
from esper.leyline import EventName, Level
from esper.tolaria.parts import Parts
from esper.tolaria.progress import Progress
from esper.tolaria.state.checkpoint import Checkpoint, save_checkpoint
from esper.tolaria.state.manager import Generators, StateManager
from esper.tolaria.state.retention import prune
from esper.tolaria.telemetry import Telemetry

# Owners that hold what Tamiyo and the control loop remember.
MORPHOGENETIC = ("history", "control", "growth", "health")


class Store:
    """Saves the state of a run into its checkpoint folder, and restores it.

    Every checkpoint is whole: it also holds the best model so far, so any one of them is enough to go on
    from and to end with the right result. A save that fails is an event; the run goes on with the
    previous checkpoint intact.
    """

    def __init__(
        self,
        config: TolariaConfig,
        parts: Parts,
        manager: StateManager,
        telemetry: Telemetry,
    ) -> None:
        self.config = config
        self.parts = parts
        self.folder = parts.run_dir / config.checkpoint.checkpoint_dir
        self.manager = manager
        self.telemetry = telemetry
        self._saved: tuple[int, int, int] | None = None

    def save(self, progress: Progress, *, improved: bool = False, final: bool = False) -> Path | None:
        """Save where one is due: each `checkpoint_frequency` epochs and at the end; returns its folder.

        With `keep_best_only` one is due whenever the best model has improved instead.
        """
        c = self.config.checkpoint
        regular = improved if c.keep_best_only else progress.epoch % c.checkpoint_frequency == 0
        if not c.save_checkpoints or _position(progress.to_json()) == self._saved or not (regular or final):
            return None
        name = f"epoch-{progress.epoch:04d}" + (f"-batch-{progress.batch:06d}" if progress.batch else "")
        try:
            path = self._write(name, progress)
        except (OSError, CheckpointError, torch.OutOfMemoryError) as error:
            facts = {"name": name, "reason": f"{type(error).__name__}: {error}"}
            self.telemetry.emit(EventName.CHECKPOINT_FAILED, facts, level=Level.ERROR)
            return None
        self._saved = _position(progress.to_json())
        self.telemetry.emit(EventName.CHECKPOINT_SAVED, {"name": name})
        self._prune(keep=1 if c.keep_best_only else c.max_checkpoints)
        return path

    def _prune(self, keep: int) -> None:
        try:
            prune(self.folder, keep=keep)
        except CheckpointError as error:
            self.telemetry.warn(EventName.NOTICE, {"message": f"old checkpoints are still there: {error}"})

    def _write(self, name: str, progress: Progress) -> Path:
        tensors, state = self.manager.capture()
        header = {
            "config": self.config.to_dict(),
            "data": asdict(self.parts.data),  # what the model was made to fit; the data may be gone one day
            "progress": progress.to_json(),
            "records": self.parts.records.state(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        return save_checkpoint(self.folder, name, tensors=tensors, state={"run": header, "owners": state})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a saved run; raises `CheckpointError` where the checkpoint does not fit this one.

        Without `strict_loading` what fits is loaded, and each part that does not is told in an event; so is
        everything by which this process differs from the one that saved, for numbers may differ then.
        """

        def tell(problem: str) -> None:
            self.telemetry.warn(EventName.NOTICE, {"message": problem})

        on_misfit = None if self.config.checkpoint.strict_loading else tell
        header = checkpoint.state["run"]
        self._check_data(header["config"], on_misfit)
        self.manager.restore(
            checkpoint.tensors,
            checkpoint.state["owners"],
            # left out by checkpoint.save_morphogenetic_state=false: Tamiyo then begins anew
            optional=MORPHOGENETIC,
            on_misfit=on_misfit,
        )
        self._saved = _position(header["progress"])
        if differing := self._differences(header):
            message = f"this run may not repeat the saved one to the bit: {'; '.join(differing)}"
            self.telemetry.warn(EventName.NOTICE, {"message": message})

    def _check_data(self, saved: Mapping[str, Any], tell: Callable[[str], None] | None) -> None:
        """Other splits than the saved run's would validate and test on what it has learnt from."""
        now = self.config.to_dict()
        names = ("name", "validation_split", "test_split", "dataset_params")
        differing = [f"dataset.{n}" for n in names if saved["dataset"][n] != now["dataset"][n]]
        differing += ["seed"] if saved["seed"] != now["seed"] else []
        if not differing:
            return
        problem = f"the saved run had other splits of the data: {', '.join(differing)} differ"
        if tell is None:
            raise CheckpointError(f"{problem}; expected those of the saved run, or strict_loading=false")
        tell(problem)

    def _differences(self, header: Mapping[str, Any]) -> list[str]:
        then = {"threads": header["threads"], **header["versions"]}
        now = {"threads": torch.get_num_threads(), **versions()}
        found = [
            f"{name} was {then.get(name)}, is {now[name]}" for name in now if then.get(name) != now[name]
        ]
        return found + [sentence for owner in self._generators() for sentence in owner.inexact]

    def _generators(self) -> list[Generators]:
        return [owner for owner in self.manager.owners.values() if isinstance(owner, Generators)]


def _position(progress: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where a run stands: an epoch whose last step is done is not yet one that is over."""
    return progress["step"], progress["epoch"], progress["batch"]
