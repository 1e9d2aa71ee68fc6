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
from esper.tolaria.checkpoint.checkpointer import EXPECTED, MORPHOGENETIC, Checkpointer
from esper.tolaria.checkpoint.discovery import load_latest
from esper.tolaria.checkpoint.format import Checkpoint
from esper.tolaria.checkpoint.registry import State, StateRegistry, Tensors
from esper.tolaria.checkpoint.snapshots import Snapshot, Snapshots

Read = Callable[[], Checkpoint]


class _Task:
    """One read and its result, which nobody else holds: let go of, it can touch nothing any more."""

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
    """At most one reading thread. It ends with its read and cannot be stopped before."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a read is still running, also one that is no longer waited for."""
        return self._last is not None and self._last.is_alive()

    def start(self, read: Read) -> Callable[[float], Checkpoint | None]:
        """Start a read; what is returned waits for it for so many seconds.

        It gives the checkpoint, or None where there was no time for it, and raises what the read raised.
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
_HEAD = struct.Struct("<BdH")  # whether one is told, when, and the length of the cause that follows


@dataclass(frozen=True, slots=True)
class Missed:
    """A deadline that was missed: when (seconds since 1970), and what it was missed for."""

    at: float
    cause: str


class DeadlineSignal:
    """The last missed deadline. Every process that opens the same `path` sees it, and asks nobody."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def set(self, cause: str, at: float) -> None:
        """Tell that a deadline was missed."""
        raw = cause.encode()[: _SIZE - _HEAD.size]
        self._map[0] = 0  # nobody reads a cause that is half written
        self._map[_HEAD.size : _HEAD.size + len(raw)] = raw
        self._map[1 : _HEAD.size] = _HEAD.pack(1, at, len(raw))[1:]
        self._map[0] = 1

    def clear(self) -> None:
        self._map[0] = 0

    def read(self) -> Missed | None:
        """The deadline that was missed since the last `clear`, if any."""
        told, at, length = _HEAD.unpack(self._map[: _HEAD.size])
        raw = self._map[_HEAD.size : _HEAD.size + length]
        if not told or not self._map[0]:
            return None
        return Missed(at, raw.decode(errors="ignore"))

    def close(self) -> None:
        self._map.close()


_Undo = tuple[Tensors, State] | None
# Reads the newest good checkpoint in a folder that was taken at or before a step.
Reader = Callable[[Path, int], Checkpoint]


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """What became of a rollback.

    `tier` ("fast" or "full") is the one that succeeded, or that failed last; `step` where the run stands
    now, None where it was not moved. `hit` says whether there was a good snapshot. `error` tells what went
    wrong, also where a later tier made up for it. Where not `intact`, a restore failed half way and could
    not be taken back: the run is good for nothing. `records` is where the records stood in the state that the
    run is back at.
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


class _Failed(Exception):
    """A tier that did not get the run back; `missed` where for want of time, `torn` where half way."""

    def __init__(self, why: str, *, missed: bool = False, torn: bool = False) -> None:
        super().__init__(why)
        self.missed = missed
        self.torn = torn


class Rollback:
    """Brings the run back to the nearest good snapshot, else to the newest good checkpoint on the disk.

    The disk is read by one thread at most. Past the deadline its read is let go of: what it brings then
    reaches nobody, and until it has ended a further read is refused at once. `clock` is in seconds; `signal`
    is told of a missed deadline. For the loop's thread, which nothing else moves meanwhile.
    """

    def __init__(
        self,
        manager: StateRegistry,
        snapshots: Snapshots,
        checkpointer: Checkpointer,
        *,
        read: Reader = load_latest,
        signal: DeadlineSignal | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.manager = manager
        self.snapshots = snapshots
        self.checkpointer = checkpointer
        self.read = read
        self.signal = signal
        self.clock = clock
        self.loader = CheckpointReader()
        self.counts = {"fast_hits": 0, "fast_misses": 0, "failures": 0, "deadline_exceeded": 0}
        self._records: Mapping[str, Any] = {}

    def back(self, deadline_ms: float, *, at_or_before_step: int = sys.maxsize) -> RollbackResult:
        """Go back, within `deadline_ms` from now, to a state of `at_or_before_step`.

        What was taken after the state that is gone back to is let go. A restore that has begun is not broken
        off; `deadline_exceeded` then says that it took too long.
        """
        began = self.clock()
        until = began + 1e-3 * deadline_ms
        snapshot = self.snapshots.nearest(at_or_before_step)
        self.counts["fast_misses" if snapshot is None else "fast_hits"] += 1
        failed: list[_Failed] = []
        tier, step = "fast", None
        if snapshot is not None:
            step = self._try(partial(self._fast, snapshot), failed)
        if step is None and not (failed and failed[-1].torn):
            tier = "full"
            step = self._try(partial(self._full, at_or_before_step, until), failed)
        late = self.clock() > until or any(failure.missed for failure in failed)
        result = RollbackResult(
            ok=step is not None,
            tier=tier,
            step=step,
            latency_ms=1e3 * (self.clock() - began),
            hit=snapshot is not None,
            error="; ".join(map(str, failed)),
            deadline_exceeded=late,
            intact=not (failed and failed[-1].torn),
            records={} if step is None else self._records,
        )
        self._conclude(result, deadline_ms)
        return result

    def _try(self, attempt: Callable[[], int], failed: list[_Failed]) -> int | None:
        try:
            return attempt()
        except _Failed as failure:
            self.counts["failures"] += 1
            failed.append(failure)
            return None

    def _conclude(self, result: RollbackResult, deadline_ms: float) -> None:
        if result.step is not None:
            self.snapshots.drop_after(result.step)
            self.checkpointer.rolled_back()
        if result.deadline_exceeded:
            self.counts["deadline_exceeded"] += 1
            cause = result.error or f"the {result.tier} restore took longer than {deadline_ms:g} ms"
            if self.signal is not None:
                self.signal.set(cause, time.time())

    # -- the tiers -------------------------------------------------------------------------------

    def _fast(self, snapshot: Snapshot) -> int:
        self.snapshots.drop_after(snapshot.step)  # its memory holds what is to be undone, if need be
        try:
            self._put(snapshot.tensors, snapshot.state, self._undo())
        except _Failed:
            self.snapshots.drop(snapshot.step)
            raise
        return snapshot.step

    def _full(self, at_or_before_step: int, until: float) -> int:
        if self.loader.busy:
            raise _Failed("an earlier read of a checkpoint is still under way; no second one is begun")
        wait = self.loader.start(partial(self.read, self.checkpointer.folder, at_or_before_step))
        began = self.clock()
        undo = self._undo()  # while the disk works
        # a restore takes about as long as two copies: what cannot be done in time is not begun
        last = until - 2 * (self.clock() - began)
        try:
            checkpoint = wait(last - self.clock())
        except (EsperError, OSError, MemoryError) as error:
            self._let_go(undo)
            raise _Failed(f"no checkpoint could be read: {error}") from error
        if checkpoint is None or self.clock() > last:
            self._let_go(undo)
            raise _Failed(
                f"no checkpoint of {self.checkpointer.folder} was read by the deadline", missed=True
            )
        self._put(checkpoint.tensors, checkpoint.state, undo)
        step: int = checkpoint.state["run"]["progress"]["step"]
        return step

    # -- all or nothing --------------------------------------------------------------------------

    def _put(self, tensors: Tensors, state: State, undo: _Undo) -> None:
        """Restore a state, or leave the run as it was."""
        try:
            self.manager.restore(tensors, state["owners"], optional=MORPHOGENETIC, copy=True)
            self._records = state["run"]["records"]
        except Exception as error:
            why = f"the state of step {state['run']['progress']['step']} could not be restored: {error}"
            self._take_back(why, undo)
            raise _Failed(why) from error
        finally:
            self._let_go(undo)

    def _undo(self) -> _Undo:
        """The state as it is now, to come back to; None where an owner cannot give its own."""
        try:
            return self.manager.capture(self.snapshots.buffers)
        except EXPECTED:
            return None

    def _take_back(self, why: str, undo: _Undo) -> None:
        try:
            if undo is None:
                raise CheckpointError("it could not be captured")
            self.manager.restore(*undo, copy=True)
        except Exception as error:
            raise _Failed(f"{why}; nor could the run be left as it was: {error}", torn=True) from error

    def _let_go(self, undo: _Undo) -> None:
        if undo is not None:
            self.snapshots.buffers.give(undo[0])
            self.snapshots.trim()
