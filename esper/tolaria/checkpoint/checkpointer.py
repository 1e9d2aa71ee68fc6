"""When a run is saved, under which name, and how it is restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.config import TolariaConfig
from esper.errors import CheckpointError
from esper.leyline import EventName, Level
from esper.tolaria.checkpoint.buffers import Buffers
from esper.tolaria.checkpoint.format import Checkpoint, check_checkpoint, list_checkpoints, save_checkpoint
from esper.tolaria.checkpoint.metadata import Metadata, name_of, position
from esper.tolaria.checkpoint.registry import Generators, State, StateRegistry, Tensors
from esper.tolaria.checkpoint.retention import Retention, prune
from esper.tolaria.checkpoint.snapshots import Snapshot
from esper.tolaria.components import TrainingComponents
from esper.tolaria.events import Telemetry
from esper.tolaria.optimization.optimizer_state import EncodedJson
from esper.tolaria.train_state import Progress
from esper.utils.files import FILES, Files
from esper.utils.finite import find_non_finite, is_buffer


class Writer:
    """Runs a write in the background; whoever starts the next one waits for the last.

    The thread stays until `close`, for whoever starts one waits until it runs. It is waited for when the
    process ends: one that ends by an error still ends its write.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "esper-checkpoint")
        self._write: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._write is not None and not self._write.done()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write; the last one must have been waited for."""
        assert self._write is None, "the last write has not been waited for"
        self._write = self._pool.submit(write)

    def wait(self) -> BaseException | None:
        """Wait for the write, if there is one; returns why it failed.

        Raises what no disk, memory or state can explain: that is a defect, not a failed save.
        """
        write, self._write = self._write, None
        failure = write.exception() if write is not None else None
        if failure is not None and not isinstance(failure, EXPECTED):
            raise failure
        return failure

    def close(self) -> None:
        """Wait for the write and end the thread; the next write begins another."""
        self._pool.shutdown()
        self._pool = ThreadPoolExecutor(1, "esper-checkpoint")


# What may keep a state from being saved without anything being wrong with the run.
EXPECTED = (OSError, CheckpointError, MemoryError, torch.OutOfMemoryError)


# Owners that hold what Tamiyo and the control loop remember.
MORPHOGENETIC = ("history", "control", "growth", "health")


@dataclass(slots=True)
class Saved:
    """Outcome of a save: `error` is why it failed, `note` what else went wrong."""

    name: str
    path: Path
    progress: Mapping[str, Any]
    error: str = ""
    note: str = ""


class Checkpointer:
    """Saves the state of a run into its checkpoint folder, and restores it.

    Every checkpoint is complete: it also holds the best model so far, so any one of them is enough to resume
    from and to end with the right result. The copy is taken on the caller's thread and written in the
    background; a failed save is an event, and the run continues with the previous checkpoint intact.
    """

    def __init__(
        self,
        config: TolariaConfig,
        components: TrainingComponents,
        registry: StateRegistry,
        telemetry: Telemetry,
        io: Files = FILES,
    ) -> None:
        self.config = config
        self.components = components
        self.folder = components.run_dir / config.checkpoint.checkpoint_dir
        self.registry = registry
        self.telemetry = telemetry
        self.metadata = Metadata(config, components)
        self.io = io
        c = config.checkpoint
        keep = 1 if c.keep_best_only else c.max_checkpoints
        self.retention = Retention(keep, c.keep_every, best=not c.keep_best_only)
        self._buffers = Buffers()
        self._writer = Writer()
        self._pending: Saved | None = None
        self._position: tuple[int, int, int] | None = None
        self._failure = ""  # why the last save that failed did

    # -- saving ----------------------------------------------------------------------------------

    def save(self, progress: Progress, *, improved: bool = False, final: bool = False) -> Path | None:
        """Save where one is due: each `checkpoint_frequency` epochs and at the end; returns its folder-to-be.

        With `keep_best_only` one is due whenever the best model has improved instead. What is returned is
        durable when `flush` says so; a `final` one is when this returns, or None is returned.
        """
        self.poll()
        c = self.config.checkpoint
        regular = improved if c.keep_best_only else progress.epoch % c.checkpoint_frequency == 0
        if not c.save_checkpoints or not (regular or final):
            return None
        self.flush()  # the next waits for the last, and tries again where that one failed
        if position(progress.to_json()) == self._position:
            return None
        saved = self._named(progress.to_json())
        try:
            metadata = self.metadata.make(progress)
            tensors, owners = self.registry.capture(self._buffers)
            self._buffers.trim(0)  # what is left over is of a topology that has been
        except EXPECTED as error:
            self._emit_failure(saved, error)
            return None
        self._start(saved, tensors, EncodedJson({"run": metadata, "owners": owners}))
        return self._durable(saved) if final else saved.path

    def save_end(self, progress: Progress) -> None:
        """Save where the run ends, also at a position whose checkpoint is not in the folder any more."""
        self.flush()
        if not (self.folder / name_of(progress.to_json())).is_dir():
            self._position = None
        self.save(progress, final=True)

    def why_unsaved(self, progress: Progress) -> str:
        """Why this position could not be taken up from the folder, as a sentence; empty where it could."""
        if not self.config.checkpoint.save_checkpoints:
            return ""
        path = self.folder / name_of(progress.to_json())
        try:
            found = check_checkpoint(path)["state"]["run"]["progress"]
            reason = "" if position(found) == position(progress.to_json()) else "it is of another position"
        except CheckpointError as error:
            reason = self._failure or str(error)
        return f"the last checkpoint, {path.name}, is not saved: {reason}" if reason else ""

    def save_snapshot(self, snapshot: Snapshot) -> Path | None:
        """Write what is in memory already as a checkpoint; returns its folder, durable, or None."""
        self.flush()
        progress = snapshot.state["run"]["progress"]
        if not self.config.checkpoint.save_checkpoints or position(progress) == self._position:
            return None
        saved = self._named(progress)
        self._start(saved, snapshot.tensors, snapshot.state)
        return self._durable(saved)

    def save_rollback(
        self, progress: Progress, records: Mapping[str, Any], failed_step: int, event: Mapping[str, Any]
    ) -> bool:
        """Save the state that a rollback has brought back, with what was decided; wait until it is durable.

        From then on the checkpoints of the course that is left are abandoned, and they are removed. `records`
        is what the records are to be cut back to once this returns, not before: until the new checkpoint is
        durable a restart goes on from an old one, with all of its records. `event` is what will be logged
        then, and what a restart from here logs instead; empty means nothing.

        Returns False where nothing was saved and a restart would take a checkpoint of the course that is
        left: the run may not go on. With `save_checkpoints` false nothing is ever durable, and it goes on.
        """
        self.flush()
        if not self.config.checkpoint.save_checkpoints:
            return True
        saved = self._named(progress.to_json())
        try:
            metadata = self.metadata.make(progress, self.components.records.rewound(records))
            metadata["rollback"] = {"failed_step": failed_step, "event": dict(event)}
            tensors, owners = self.registry.capture(self._buffers)
        except EXPECTED as error:
            self._emit_failure(saved, error)
        else:
            self._start(saved, tensors, EncodedJson({"run": metadata, "owners": owners}))
            self.flush()
        return not saved.error or not self._has_later(position(saved.progress))

    def _has_later(self, here: tuple[int, int, int]) -> bool:
        try:
            entries = list_checkpoints(self.folder)[0] if self.folder.is_dir() else []
        except (CheckpointError, OSError):
            return True  # nobody can tell
        return any(entry.position > here for entry in entries)

    def poll(self) -> None:
        """Report a write that has finished since the last call; for the loop, waits for nothing."""
        if self._pending is not None and not self.busy:
            self.flush()

    def flush(self) -> Saved | None:
        """Wait until all is durable and log it; returns the outcome of a pending save."""
        saved, self._pending = self._pending, None
        failure = self._writer.wait()
        if saved is None:
            return None
        if failure is not None:
            self._emit_failure(saved, failure)
        else:
            self.telemetry.emit(EventName.CHECKPOINT_SAVED, {"name": saved.name})
        if saved.note:
            self.telemetry.warn(EventName.NOTICE, {"message": saved.note})
        return saved

    def close(self) -> None:
        """Wait for the last write and free the memory."""
        try:
            self.flush()
        finally:
            self._writer.close()
            self._buffers = Buffers()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writer.busy

    def holds(self, progress: Mapping[str, Any]) -> bool:
        """Whether the state of this position is the one that was last saved, and is durable."""
        self.flush()
        return position(progress) == self._position

    def rolled_back(self) -> None:
        """The run is at another position: the next save is one, also at a position that was saved before."""
        self._position = None

    def _named(self, progress: Mapping[str, Any]) -> Saved:
        name = name_of(progress)
        return Saved(name, self.folder / name, progress)

    def _start(self, saved: Saved, tensors: Tensors, state: State) -> None:
        self._pending, self._position = saved, position(saved.progress)
        self._writer.start(partial(self._write, saved, tensors, state))

    def _durable(self, saved: Saved) -> Path | None:
        self.flush()
        return None if saved.error else saved.path

    def _emit_failure(self, saved: Saved, error: BaseException) -> None:
        self._position = None
        self._failure = saved.error = f"{type(error).__name__}: {error}"
        facts = {"name": saved.name, "reason": saved.error}
        self.telemetry.emit(EventName.CHECKPOINT_FAILED, facts, level=Level.ERROR)

    # -- in the background -----------------------------------------------------------------------

    def _write(self, saved: Saved, tensors: Tensors, state: State) -> None:
        try:
            found = find_non_finite(tensors.get("model", {}), partial(is_buffer, self.components.model))
            if isinstance(self.components.loss, nn.Module):
                found = found or find_non_finite(
                    tensors.get("loss", {}), partial(is_buffer, self.components.loss)
                )
            if found:
                raise CheckpointError(f"{saved.name} is not saved: {found}; the previous one stands")
            self.components.records.sync()  # the checkpoint speaks of their lengths
            self.folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(self.folder, saved.name, tensors=tensors, state=state, io=self.io)
        finally:
            self._buffers.give(tensors)
        try:
            prune(self.folder, self.retention)
        except CheckpointError as error:
            saved.note = f"old checkpoints are still there: {error}"

    # -- restoring -------------------------------------------------------------------------------

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a saved run; raises `CheckpointError` where the checkpoint does not fit this one.

        Without `strict_loading` what fits is loaded, and each part that does not is told in an event; so is
        everything by which this process differs from the one that saved, for numbers may differ then.
        """
        metadata, strict = checkpoint.state["run"], self.config.checkpoint.strict_loading
        self._check_data(metadata, strict)
        self.registry.restore(
            checkpoint.tensors,
            checkpoint.state["owners"],
            # left out by checkpoint.save_morphogenetic_state=false: Tamiyo then begins anew
            optional=MORPHOGENETIC,
            on_misfit=None if strict else self._warn,
        )
        self._position = position(metadata["progress"])
        generators = [owner for owner in self.registry.owners.values() if isinstance(owner, Generators)]
        differing = self.metadata.differences(metadata)
        differing += [sentence for owner in generators for sentence in owner.inexact]
        if differing:
            self._warn(f"this run may not repeat the saved one to the bit: {'; '.join(differing)}")
        self._log_rollback(checkpoint)

    def _log_rollback(self, checkpoint: Checkpoint) -> None:
        """Log the rollback that a checkpoint was saved at: it was to be logged once that was durable."""
        rollback = checkpoint.state["run"].get("rollback")
        event = rollback.get("event") if isinstance(rollback, dict) else None
        own = checkpoint.path.resolve().parent == self.folder.resolve()
        if own and event and isinstance(event, dict):
            self.telemetry.warn(EventName.ROLLBACK_DONE, event)

    def _check_data(self, metadata: Mapping[str, Any], strict: bool) -> None:
        """Other splits than the saved run's would validate and test on what it has learnt from."""
        differing = self.metadata.other_splits(metadata)
        if not differing:
            return
        problem = f"the saved run had other splits of the data: {', '.join(differing)} differ"
        if strict:
            raise CheckpointError(f"{problem}; expected those of the saved run, or strict_loading=false")
        self._warn(problem)

    def _warn(self, problem: str) -> None:
        self.telemetry.warn(EventName.NOTICE, {"message": problem})
