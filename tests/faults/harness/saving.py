"""R1: a process that saves back to back is killed; what it had acknowledged has to be there, and be right."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import cache
from pathlib import Path

import torch
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.processes import Server, until
from helpers.runs import PlannedPolicy, make_run

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.utils.files import is_leftover, remove_stale

SAVER = "faults.harness.saving:save_for_ever"
_LONGEST_S = 0.05  # a few saves long


@cache
def prepared() -> TrainingLoop:
    """A run with 6 MB of state that keeps three checkpoints; made in the server."""
    return make_run(
        Path(),
        tamiyo=PlannedPolicy(),
        model__architecture="mlp",
        model__model_params={"hidden": [700, 700]},
        model__target_layers=["body.fc1"],
        checkpoint__save_checkpoints=True,
        checkpoint__max_checkpoints=3,
        checkpoint__checkpoint_frequency=1,
    )


def save_for_ever(parent: str) -> None:
    """Save, wait until it is durable, acknowledge it by a line, until the kill."""
    run, folder = prepared(), Path(parent)
    run.checkpointer.folder = folder
    acknowledged = os.open(folder.with_suffix(".ack"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(1, 10_000):
        with torch.no_grad():
            for weight in run.model.parameters():
                weight.fill_(number)
        run.progress.step = run.progress.epoch = number
        saved = run.checkpointer.save(run.progress) and run.checkpointer.flush()
        assert saved and not saved.error, saved
        os.write(acknowledged, b"%d\n" % number)


def killed_saves(server: Server, folder: Path, budget: Budget, call: str = SAVER) -> FaultCounts:
    """R1: so many processes, each killed a random moment after its first save."""
    counts = FaultCounts("R1")
    while budget.lasts(counts):
        parent = folder / f"saves-{counts.tries}"
        parent.mkdir(parents=True)
        last = _killed(server, parent, call, budget.draw.uniform(0, _LONGEST_S))
        seen = ["in mid-save"] if _in_save(parent, last) else []
        counts.note(True, [f"kill {counts.tries}: {s}" for s in _wrong(parent, last)], *seen)
        shutil.rmtree(parent)
    counts.demand(
        2 * counts.seen["in mid-save"] >= counts.fired, "fewer than half of the kills fell into a save"
    )
    return counts


def _killed(server: Server, parent: Path, call: str, delay_s: float) -> int:
    """Kill a process so long after its first save; the number of the save that it acknowledged last."""
    ack = parent.with_suffix(".ack")
    process = server.start(call=call, arguments=[str(parent)])
    until(lambda: (ack.exists() and ack.stat().st_size > 0) or process.over, timeout_s=30, every_s=0.0002)
    time.sleep(delay_s)
    ended = process.kill()
    assert ended.code == -signal.SIGKILL, ended.err
    return int(ack.read_text().split()[-1])


def _in_save(parent: Path, last: int) -> bool:
    """Whether the kill fell into a save: something is there that is not acknowledged."""
    return any(is_leftover(path) or path.name > f"epoch-{last:04d}" for path in parent.iterdir())


def _wrong(parent: Path, last: int) -> list[str]:
    """What is wrong with the folder after the kill, `last` being the save that was acknowledged last."""
    remove_stale(parent)
    wrong = [f"{path.name} is still there" for path in parent.iterdir() if is_leftover(path)]
    try:
        found = find_checkpoint(parent)
        saved = load_checkpoint(found.path)
    except CheckpointError as error:
        return [*wrong, f"nothing can be loaded: {error}"]
    wrong += [f"torn: {sentence}" for sentence in found.refused]
    number = saved.state["run"]["progress"]["step"]
    if number < last:
        wrong.append(f"save {last} was acknowledged, {number} is the newest")
    return wrong + ([] if is_saved_together(saved, number) else [f"{found.path.name} is a mixture"])


def is_saved_together(saved: Checkpoint, number: int) -> bool:
    """Whether all that the checkpoint holds was saved together."""
    weights = [t for name, t in saved.tensors["model"].items() if name.endswith((".weight", ".bias"))]
    return len(weights) > 2 and all(bool((weight == number).all()) for weight in weights)
