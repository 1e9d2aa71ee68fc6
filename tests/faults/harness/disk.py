"""R6 and R7: a disk that fails at any of its calls, and the order of the calls."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from faults.harness.fault_counts import FaultCounts
from faults.harness.powerloss import Platter
from helpers.disk import Disk
from helpers.runs import notes_of

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import find_checkpoint, load_checkpoint
from esper.tolaria.checkpoint.format import check_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.utils.files import is_leftover, remove_stale

CODES = (errno.ENOSPC, errno.EIO)
_MOST_CALLS = 1000


def failures(run: TrainingLoop, folder: Path) -> FaultCounts:
    """R6: a grown run is saved over and over into copies of its checkpoints; each time another call fails."""
    counts = FaultCounts("R6")
    whole = run.checkpointer.folder
    run.progress.step += 1
    for code in CODES:
        for epochs in (0, 1):  # a checkpoint that replaces another of its name, and a new one
            run.progress.epoch += epochs
            for k in range(1, _MOST_CALLS):
                disk = Disk(k, code)
                wrong = _save_on(run, disk, folder / f"{code}-{epochs}-{k}", whole)
                if not disk.fired:
                    break
                kind, path = disk.calls[k - 1]
                place = f"{os.strerror(code)} at call {k} ({kind} {path.name})"
                counts.note(True, [f"{place}: {sentence}" for sentence in wrong], kind)
            run.progress.epoch -= epochs
    return counts


def _save_on(run: TrainingLoop, disk: Disk, folder: Path, whole: Path) -> list[str]:
    """Save a run into a copy of the folder `whole`, on this disk; what is wrong afterwards."""
    notes, store = notes_of(run), run.checkpointer
    shutil.copytree(whole, folder)
    before = sorted(folder.iterdir())
    notes.events.clear()
    store.folder, store.io = folder, disk
    store.forget_position()  # the position has been saved, in another folder
    store.save(run.progress, final=True)
    store.folder = whole
    logged = [event for event in notes.events if event.name in ("checkpoint_failed", "notice")]
    wrong = _half_states(folder)
    wrong += [f"{path.name} is gone" for path in before if not path.exists()]
    if disk.fired and (len(logged) != 1 or os.strerror(disk.code) not in str(logged[0].data)):
        wrong.append(f"the events are {logged}")
    return wrong


def _half_states(folder: Path) -> list[str]:
    """Leftovers, and checkpoints that are neither whole nor absent."""
    # where only the last fsync failed, the replaced one stays aside: it may be the one that is on the disk
    wrong = [f"{path.name} is left over" for path in folder.iterdir() if path.name.startswith(".tmp-")]
    remove_stale(folder)
    wrong += [f"{path.name} is left over" for path in folder.iterdir() if is_leftover(path)]
    for path in folder.iterdir():
        try:
            check_checkpoint(path)
        except CheckpointError as error:
            wrong.append(str(error))
    return wrong


def order(run: TrainingLoop) -> FaultCounts:
    """R7: the calls of a new save and of one that replaces another, as the disk saw them."""
    counts = FaultCounts("R7")
    for epochs in (0, 1):
        run.progress.step += 1
        run.progress.epoch += epochs
        run.checkpointer.io = disk = Disk()
        saved = run.checkpointer.save(run.progress, final=True)
        assert saved is not None, notes_of(run).events[-1]
        counts.note(True, out_of_order(disk.calls, saved), *(kind for kind, _ in disk.calls))
        written = {path.name for kind, path in disk.calls if kind == "write"}
        unseen = {path.name for path in saved.iterdir()} - written
        counts.demand(not unseen, f"{sorted(unseen)} were written past the disk's calls")
    return counts


def out_of_order(calls: list[tuple[str, Path]], final: Path) -> list[str]:
    """R7: what is wrong with the order of the calls that made the folder `final`."""
    wrong = []
    made = max((i for i, call in enumerate(calls) if call == ("rename", final)), default=len(calls))
    for i, (kind, path) in enumerate(calls):
        if kind == "write" and ("fsync", path) not in calls[i:made]:
            wrong.append(f"{path.name} is not on the disk before the rename")
    folder = next(path.parent for kind, path in calls if kind == "write")
    if ("fsync_dir", folder) not in calls[:made]:
        wrong.append("the folder is not on the disk before the rename")
    if ("fsync_dir", final.parent) not in calls[made:]:
        wrong.append("the rename is not on the disk")
    return wrong


def power_lost(run: TrainingLoop, folder: Path) -> FaultCounts:
    """R7: the power fails right after a new save, and after one that replaces another, was acknowledged."""
    counts = FaultCounts("R7")
    store = run.checkpointer
    for epochs in (0, 1):
        run.progress.step += 1
        run.progress.epoch += epochs
        platter = Platter(store.folder)
        with platter.spinning():
            saved = store.save(run.progress, final=True)
        assert saved is not None, notes_of(run).events[-1]
        left = platter.after_failure(folder / f"left-{epochs}")
        counts.note(True, _lost(left, run.progress.step), "power failures")
    return counts


def _lost(left: Path, step: int) -> list[str]:
    """What is wrong with what a power failure has left of the checkpoints."""
    remove_stale(left)
    try:
        found = find_checkpoint(left)
        saved = load_checkpoint(found.path).state["run"]["progress"]["step"]
    except CheckpointError as error:
        return [f"after the power failure nothing can be loaded: {error}"]
    wrong = [f"after the power failure: {sentence}" for sentence in found.refused]
    if saved != step:
        wrong.append(f"after the power failure step {saved} is the newest, {step} was acknowledged")
    return wrong
