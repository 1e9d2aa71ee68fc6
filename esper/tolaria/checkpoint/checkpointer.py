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
from esper.tolaria.checkpoint.buffers import BufferPool
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


class BackgroundWriter:
    """Runs one write at a time in a background thread.

    The thread lives until `close`, because starting a thread takes longer than a step may wait. The
    interpreter joins it at exit, so a process that ends by an exception still completes its write.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "esper-checkpoint")
        self._write: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._write is not None and not self._write.done()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write; `wait` must have been called for the previous one."""
        assert self._write is None, "the last write has not been waited for"
        self._write = self._pool.submit(write)

    def wait(self) -> BaseException | None:
        """Wait for the write, if there is one.

        Returns:
            Its exception if that is one of `SAVE_ERRORS`; any other is a defect and is raised.
        """
        write, self._write = self._write, None
        failure = write.exception() if write is not None else None
        if failure is not None and not isinstance(failure, SAVE_ERRORS):
            raise failure
        return failure

    def close(self) -> None:
        """Wait for the write and end the thread; the next write starts a new one."""
        self._pool.shutdown()
        self._pool = ThreadPoolExecutor(1, "esper-checkpoint")


# Exceptions of a save that fails because of disk, memory or state: the run continues without it.
SAVE_ERRORS = (OSError, CheckpointError, MemoryError, torch.OutOfMemoryError)


# Owners of the state of Tamiyo and of the growth controller.
MORPHOGENETIC = ("history", "control", "growth", "health")


@dataclass(slots=True)
class SaveResult:
    """The result of a save: `error` is the reason of a failure, `note` a problem that did not prevent it."""

    name: str
    path: Path
    progress: Mapping[str, Any]
    error: str = ""
    note: str = ""


class Checkpointer:
    """Saves the state of a run into its checkpoint folder, and restores it.

    Every checkpoint is complete: it also holds the best model so far, so one checkpoint is enough to resume
    and to end with the same result. The state is copied on the caller's thread and written in the background.
    A failed save is logged as an event, and the run continues with the previous checkpoint intact.

    Args:
        config: the run's configuration.
        components: model, loss, data description and records of the run.
        registry: the owners whose state is saved.
        telemetry: receives the events of saves.
        io: the file operations; tests inject faults here.
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
        self._buffers = BufferPool()
        self._writer = BackgroundWriter()
        self._pending: SaveResult | None = None
        self._position: tuple[int, int, int] | None = None
        self._failure = ""  # the reason of the last failed save

    # -- saving ----------------------------------------------------------------------------------

    def save(self, progress: Progress, *, improved: bool = False, final: bool = False) -> Path | None:
        """Save if a checkpoint is due: every `checkpoint_frequency` epochs and at the end of the run.

        Args:
            progress: the position of the run.
            improved: whether the best model has improved; with `keep_best_only` only this makes one due.
            final: the last checkpoint of the run, which is always due and waited for.

        Returns:
            The folder of the checkpoint, or None if none is due or the save failed. Without `final` the
            write may still be running; `flush` waits for it.
        """
        self.poll()
        c = self.config.checkpoint
        regular = improved if c.keep_best_only else progress.epoch % c.checkpoint_frequency == 0
        if not c.save_checkpoints or not (regular or final):
            return None
        self.flush()  # only one write at a time; if the previous one failed, this position is saved again
        if position(progress.to_json()) == self._position:
            return None
        saved = self._new_result(progress.to_json())
        try:
            metadata = self.metadata.make(progress)
            tensors, owners = self.registry.capture(self._buffers)
            self._buffers.trim(0)  # unused buffers belong to a former topology
        except SAVE_ERRORS as error:
            self._emit_failure(saved, error)
            return None
        self._start(saved, tensors, EncodedJson({"run": metadata, "owners": owners}))
        return self._finish(saved) if final else saved.path

    def save_end(self, progress: Progress) -> None:
        """Save at the end of the run, also if the checkpoint of this position was removed from the folder."""
        self.flush()
        if not (self.folder / name_of(progress.to_json())).is_dir():
            self._position = None
        self.save(progress, final=True)

    def why_unsaved(self, progress: Progress) -> str:
        """The reason why the run cannot be resumed from this position, or an empty string if it can."""
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
        """Write a snapshot as a checkpoint and wait for it; returns its folder, or None if not saved."""
        self.flush()
        progress = snapshot.state["run"]["progress"]
        if not self.config.checkpoint.save_checkpoints or position(progress) == self._position:
            return None
        saved = self._new_result(progress)
        self._start(saved, snapshot.tensors, snapshot.state)
        return self._finish(saved)

    def save_rollback(
        self, progress: Progress, records: Mapping[str, Any], failed_step: int, event: Mapping[str, Any]
    ) -> bool:
        """Save the state that a rollback has restored, and wait until it is durable.

        From then on later checkpoints are abandoned, and they are removed.

        Args:
            progress: the position that the run was rolled back to.
            records: the lengths to which the records are truncated after this returns. Not before: until the
                new checkpoint is durable, a restart resumes from an old one with all of its records.
            failed_step: the step that made the rollback necessary.
            event: the data of the event that the caller logs afterwards, and that a run resumed from this
                checkpoint logs instead; empty for none.

        Returns:
            False if nothing was saved and a restart would resume from an abandoned checkpoint: the run must
            not continue. With `save_checkpoints=false` there is nothing to resume from, and it continues.
        """
        self.flush()
        if not self.config.checkpoint.save_checkpoints:
            return True
        saved = self._new_result(progress.to_json())
        try:
            metadata = self.metadata.make(progress, self.components.records.rewound(records))
            metadata["rollback"] = {"failed_step": failed_step, "event": dict(event)}
            tensors, owners = self.registry.capture(self._buffers)
        except SAVE_ERRORS as error:
            self._emit_failure(saved, error)
        else:
            self._start(saved, tensors, EncodedJson({"run": metadata, "owners": owners}))
            self.flush()
        return not saved.error or not self._has_later(position(saved.progress))

    def _has_later(self, here: tuple[int, int, int]) -> bool:
        try:
            entries = list_checkpoints(self.folder)[0] if self.folder.is_dir() else []
        except (CheckpointError, OSError):
            return True  # unknown, so the safe answer
        return any(entry.position > here for entry in entries)

    def poll(self) -> None:
        """Log the result of a write that has finished since the last call; does not wait."""
        if self._pending is not None and not self.busy:
            self.flush()

    def flush(self) -> SaveResult | None:
        """Wait for the pending save and log its result; returns the result, or None if there was none."""
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
            self._buffers = BufferPool()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writer.busy

    def is_saved(self, progress: Mapping[str, Any]) -> bool:
        """Whether the last save is that of this position and durable; waits for a pending save."""
        self.flush()
        return position(progress) == self._position

    def forget_position(self) -> None:
        """Make the next save write, also at a position that was saved before a rollback."""
        self._position = None

    def _new_result(self, progress: Mapping[str, Any]) -> SaveResult:
        name = name_of(progress)
        return SaveResult(name, self.folder / name, progress)

    def _start(self, saved: SaveResult, tensors: Tensors, state: State) -> None:
        self._pending, self._position = saved, position(saved.progress)
        self._writer.start(partial(self._write, saved, tensors, state))

    def _finish(self, saved: SaveResult) -> Path | None:
        self.flush()
        return None if saved.error else saved.path

    def _emit_failure(self, saved: SaveResult, error: BaseException) -> None:
        self._position = None
        self._failure = saved.error = f"{type(error).__name__}: {error}"
        facts = {"name": saved.name, "reason": saved.error}
        self.telemetry.emit(EventName.CHECKPOINT_FAILED, facts, level=Level.ERROR)

    # -- in the background -----------------------------------------------------------------------

    def _write(self, saved: SaveResult, tensors: Tensors, state: State) -> None:
        try:
            found = find_non_finite(tensors.get("model", {}), partial(is_buffer, self.components.model))
            if isinstance(self.components.loss, nn.Module):
                found = found or find_non_finite(
                    tensors.get("loss", {}), partial(is_buffer, self.components.loss)
                )
            if found:
                raise CheckpointError(f"{saved.name} is not saved: {found}; the previous one is kept")
            self.components.records.sync()  # the checkpoint contains their lengths
            self.folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(self.folder, saved.name, tensors=tensors, state=state, io=self.io)
        finally:
            self._buffers.release(tensors)
        try:
            prune(self.folder, self.retention)
        except CheckpointError as error:
            saved.note = f"old checkpoints are still there: {error}"

    # -- restoring -------------------------------------------------------------------------------

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore a saved run.

        Without `strict_loading` only the matching parts are loaded, and each mismatch is logged as an event.
        Differences of this process from the one that saved are logged too, because results may differ then.

        Raises:
            CheckpointError: the checkpoint does not match this run.
        """
        metadata, strict = checkpoint.state["run"], self.config.checkpoint.strict_loading
        self.metadata.check_splits(metadata, None if strict else self._warn)
        self.registry.restore(
            checkpoint.tensors,
            checkpoint.state["owners"],
            # absent with checkpoint.save_morphogenetic_state=false: Tamiyo then starts without history
            optional=MORPHOGENETIC,
            on_mismatch=None if strict else self._warn,
        )
        self._position = position(metadata["progress"])
        generators = [owner for owner in self.registry.owners.values() if isinstance(owner, Generators)]
        differing = self.metadata.differences(metadata)
        differing += [sentence for owner in generators for sentence in owner.inexact]
        if differing:
            self._warn(f"this run may not repeat the saved one to the bit: {'; '.join(differing)}")
        self._log_rollback(checkpoint)

    def _log_rollback(self, checkpoint: Checkpoint) -> None:
        """Log the rollback that this checkpoint is the result of: the run may have ended before it did."""
        rollback = checkpoint.state["run"].get("rollback")
        event = rollback.get("event") if isinstance(rollback, dict) else None
        own = checkpoint.path.resolve().parent == self.folder.resolve()
        if own and event and isinstance(event, dict):
            self.telemetry.warn(EventName.ROLLBACK_DONE, event)

    def _warn(self, problem: str) -> None:
        self.telemetry.warn(EventName.NOTICE, {"message": problem})
