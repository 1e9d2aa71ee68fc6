"""Restores a known good state within a deadline: from memory, else from the disk."""

from __future__ import annotations

import mmap
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from esper.errors import CheckpointError, EsperError
from esper.tolaria.checkpoint.checkpointer import MORPHOGENETIC, SAVE_ERRORS, Checkpointer
from esper.tolaria.checkpoint.discovery import load_latest
from esper.tolaria.checkpoint.format import Checkpoint
from esper.tolaria.checkpoint.registry import State, StateRegistry, Tensors
from esper.tolaria.checkpoint.snapshots import Snapshot, Snapshots

Read = Callable[[], Checkpoint]


class _Task:
    """One read and its result. No other object refers to it, so that a late result is freed."""

    def __init__(self, read: Read) -> None:
        self.done = threading.Event()
        self.checkpoint: Checkpoint | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(read,), name="esper-loader", daemon=True)

    def _run(self, read: Read) -> None:
        try:
            self.checkpoint = read()
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            self.error = error
        self.done.set()


class CheckpointReader:
    """Reads checkpoints in at most one thread, which cannot be stopped before its read ends."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a read is still running, also one that is no longer waited for."""
        return self._last is not None and self._last.is_alive()

    def start(self, read: Read) -> Callable[[float], Checkpoint | None]:
        """Start a read.

        Returns:
            A function that waits up to a number of seconds for the checkpoint and returns it, or None on
            timeout; it raises what the read raised.
        """
        assert not self.busy, "one read at a time"
        task = _Task(read)
        self._last = task.thread
        task.thread.start()

        def wait(timeout_s: float) -> Checkpoint | None:
            if not task.done.wait(max(0.0, timeout_s)):
                return None
            if task.error is not None:
                raise task.error
            return task.checkpoint

        return wait


_SIZE = 512
_HEAD = struct.Struct("<BdH")  # whether one is set, its time, and the length of the cause that follows


@dataclass(frozen=True, slots=True)
class MissedDeadline:
    """A missed deadline: `at` in seconds since 1970, and its cause."""

    at: float
    cause: str


class DeadlineSignal:
    """The last missed deadline, in a file that all processes which open the same `path` map."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def set(self, cause: str, at: float) -> None:
        """Publish that a deadline was missed at `at` (seconds since 1970)."""
        raw = cause.encode()[: _SIZE - _HEAD.size]
        self._map[0] = 0  # so that no process reads a partly written cause
        self._map[_HEAD.size : _HEAD.size + len(raw)] = raw
        self._map[1 : _HEAD.size] = _HEAD.pack(1, at, len(raw))[1:]
        self._map[0] = 1

    def clear(self) -> None:
        self._map[0] = 0

    def read(self) -> MissedDeadline | None:
        """The deadline that was missed since the last `clear`, if any."""
        is_set, at, length = _HEAD.unpack(self._map[: _HEAD.size])
        raw = self._map[_HEAD.size : _HEAD.size + length]
        if not is_set or not self._map[0]:
            return None
        return MissedDeadline(at, raw.decode(errors="ignore"))

    def close(self) -> None:
        self._map.close()


_Undo = tuple[Tensors, State] | None
# Reads the newest good checkpoint in a folder that was taken at or before a step.
Reader = Callable[[Path, int], Checkpoint]


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """The result of a rollback.

    Attributes:
        ok: whether a state was restored.
        tier: "fast" (a snapshot) or "full" (the disk): the one that succeeded or failed last.
        step: the step that was restored; None if the run was not changed.
        latency_ms: the duration.
        hit: whether there was a good snapshot.
        error: the failures of all tiers, also if a later tier succeeded.
        deadline_exceeded: whether it took longer than allowed.
        intact: False if a restore failed in part and could not be undone; the run cannot be used then.
        records: the lengths of the records in the restored state.
    """

    ok: bool
    tier: str | None
    step: int | None
    latency_ms: float
    hit: bool
    error: str = ""
    deadline_exceeded: bool = False
    intact: bool = True
    records: Mapping[str, Any] = field(default_factory=dict)


class _TierFailed(Exception):
    """A tier failed: it `timed_out`, or left a `partial_restore` that could not be undone."""

    def __init__(self, why: str, *, timed_out: bool = False, partial_restore: bool = False) -> None:
        super().__init__(why)
        self.timed_out = timed_out
        self.partial_restore = partial_restore


class Rollback:
    """Restores the nearest good snapshot, else the newest valid checkpoint on the disk.

    At most one thread reads from the disk. A read that misses the deadline is abandoned: its result is
    discarded, and until it has ended another read fails at once. Call it on the loop's thread.

    Args:
        registry: the owners of the state.
        snapshots: the states in memory.
        checkpointer: knows the checkpoint folder.
        read: reads the newest valid checkpoint of a folder up to a step.
        signal: receives missed deadlines.
        clock: in seconds.
    """

    def __init__(
        self,
        registry: StateRegistry,
        snapshots: Snapshots,
        checkpointer: Checkpointer,
        *,
        read: Reader = load_latest,
        signal: DeadlineSignal | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.registry = registry
        self.snapshots = snapshots
        self.checkpointer = checkpointer
        self.read = read
        self.signal = signal
        self.clock = clock
        self.loader = CheckpointReader()
        self.counts = {"fast_hits": 0, "fast_misses": 0, "failures": 0, "deadline_exceeded": 0}
        self._records: Mapping[str, Any] = {}

    def restore(self, deadline_ms: float, *, at_or_before_step: int = sys.maxsize) -> RollbackResult:
        """Restore a state of a step up to `at_or_before_step`, within `deadline_ms` milliseconds.

        Later snapshots are dropped. A restore that has started is not interrupted; `deadline_exceeded` then
        says that it took too long.
        """
        began = self.clock()
        until = began + 1e-3 * deadline_ms
        snapshot = self.snapshots.nearest(at_or_before_step)
        self.counts["fast_misses" if snapshot is None else "fast_hits"] += 1
        failed: list[_TierFailed] = []
        tier, step = "fast", None
        if snapshot is not None:
            step = self._try(partial(self._fast, snapshot), failed)
        if step is None and not (failed and failed[-1].partial_restore):
            tier = "full"
            step = self._try(partial(self._full, at_or_before_step, until), failed)
        late = self.clock() > until or any(failure.timed_out for failure in failed)
        result = RollbackResult(
            ok=step is not None,
            tier=tier,
            step=step,
            latency_ms=1e3 * (self.clock() - began),
            hit=snapshot is not None,
            error="; ".join(map(str, failed)),
            deadline_exceeded=late,
            intact=not (failed and failed[-1].partial_restore),
            records={} if step is None else self._records,
        )
        self._conclude(result, deadline_ms)
        return result

    def _try(self, attempt: Callable[[], int], failed: list[_TierFailed]) -> int | None:
        try:
            return attempt()
        except _TierFailed as failure:
            self.counts["failures"] += 1
            failed.append(failure)
            return None

    def _conclude(self, result: RollbackResult, deadline_ms: float) -> None:
        if result.step is not None:
            self.snapshots.drop_after(result.step)
            self.checkpointer.forget_position()
        if result.deadline_exceeded:
            self.counts["deadline_exceeded"] += 1
            cause = result.error or f"the {result.tier} restore took longer than {deadline_ms:g} ms"
            if self.signal is not None:
                self.signal.set(cause, time.time())

    # -- the tiers -------------------------------------------------------------------------------

    def _fast(self, snapshot: Snapshot) -> int:
        self.snapshots.drop_after(snapshot.step)  # frees memory for the copy of the present state
        try:
            self._restore(snapshot.tensors, snapshot.state, self._capture_current())
        except _TierFailed:
            self.snapshots.drop(snapshot.step)
            raise
        return snapshot.step

    def _full(self, at_or_before_step: int, until: float) -> int:
        if self.loader.busy:
            raise _TierFailed("an earlier read of a checkpoint is still running; no second one is started")
        wait = self.loader.start(partial(self.read, self.checkpointer.folder, at_or_before_step))
        began = self.clock()
        undo = self._capture_current()  # while the disk is read
        # a restore takes about as long as two copies: one that cannot end in time is not started
        last = until - 2 * (self.clock() - began)
        try:
            checkpoint = wait(last - self.clock())
        except (EsperError, OSError, MemoryError) as error:
            self._release(undo)
            raise _TierFailed(f"no checkpoint could be read: {error}") from error
        if checkpoint is None or self.clock() > last:
            self._release(undo)
            raise _TierFailed(
                f"no checkpoint of {self.checkpointer.folder} was read by the deadline", timed_out=True
            )
        self._restore(checkpoint.tensors, checkpoint.state, undo)
        step: int = checkpoint.state["run"]["progress"]["step"]
        return step

    # -- all or nothing --------------------------------------------------------------------------

    def _restore(self, tensors: Tensors, state: State, undo: _Undo) -> None:
        """Restore a state; after a failure the run is as it was before."""
        try:
            self.registry.restore(tensors, state["owners"], optional=MORPHOGENETIC, copy=True)
            self._records = state["run"]["records"]
        except Exception as error:
            why = f"the state of step {state['run']['progress']['step']} could not be restored: {error}"
            self._undo_restore(why, undo)
            raise _TierFailed(why) from error
        finally:
            self._release(undo)

    def _capture_current(self) -> _Undo:
        """A copy of the present state; None if an owner's state cannot be captured."""
        try:
            return self.registry.capture(self.snapshots.buffers)
        except SAVE_ERRORS:
            return None

    def _undo_restore(self, why: str, undo: _Undo) -> None:
        try:
            if undo is None:
                raise CheckpointError("it could not be captured")
            self.registry.restore(*undo, copy=True)
        except Exception as error:
            raise _TierFailed(
                f"{why}; nor could the run be left as it was: {error}", partial_restore=True
            ) from error

    def _release(self, undo: _Undo) -> None:
        if undo is not None:
            self.snapshots.buffers.release(undo[0])
            self.snapshots.trim()
