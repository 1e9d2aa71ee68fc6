"""R8: checkpoints made to harm, their hashes in order as a forger can make them, and how each is met."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from functools import cache
from pathlib import Path

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.forgery import FORGERIES, Forgery
from faults.harness.grown import SAVING
from faults.harness.processes import Ended, Server
from helpers.runs import PlannedPolicy, make_run

import esper
from esper.errors import EsperError
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.utils.manifest import MANIFEST, hash_file, render_manifest

LIMIT_S = 2.0
LIMIT_BYTES = 200 * 2**20
MEET = "faults.harness.hostile:meet"


@cache
def prepared() -> TrainingLoop:
    """A run that could be taken up from the checkpoint, were it not forged; made in the server."""
    gc.freeze()
    return make_run(Path(), tamiyo=PlannedPolicy(), **SAVING)


def meet(path: str, way: str) -> None:
    """Try to use a checkpoint; print what came of it, in what time, and how far the memory rose."""
    run = prepared()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, began = memory_bytes("VmRSS"), time.perf_counter()
    try:
        if way == "resume":
            run.checkpointer.restore(load_checkpoint(Path(path)))
        else:
            esper.load(path)
        error = ""
    except EsperError as problem:
        error = f"{type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - began
    print(
        json.dumps({"error": error, "seconds": seconds, "bytes": memory_bytes("VmHWM") - before}), flush=True
    )
    os._exit(0)  # nothing here depends on the interpreter's own end, which takes longer than all the rest


def memory_bytes(field: str) -> int:
    """VmRSS, or VmHWM: the peak since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def forge(whole: Path, path: Path, forgery: Forgery, marker: Path) -> None:
    """A copy of the checkpoint `whole` with the forgery in it."""
    shutil.copytree(whole, path)
    forgery.alter(path, marker)
    if forgery.hashed:
        hashed(path)


def hashed(path: Path) -> None:
    """Write the manifest that fits what the folder holds."""
    names = sorted(file.name for file in path.iterdir() if file.name != MANIFEST)
    (path / MANIFEST).write_bytes(render_manifest({name: hash_file(path / name) for name in names}))


def meetings(server: Server, folder: Path, whole: Path, budget: Budget, call: str = MEET) -> FaultCounts:
    """R8: every forgery of the checkpoint `whole` is met in every way, each in a process of its own."""
    counts = FaultCounts("R8")
    marker = folder / "marker"
    for kind, forgery in FORGERIES.items():
        if not budget.lasts(counts):
            break
        path = folder / kind.replace(" ", "-")
        forge(whole, path, forgery, marker)
        for way in forgery.ways:
            wrong = _met(server, [str(path), way], call, forgery)
            counts.note(True, [f"{kind}, {way}: {sentence}" for sentence in wrong])
            counts.demand(not marker.exists(), f"{kind}, {way}: its payload ran")
            marker.unlink(missing_ok=True)
        counts.seen["kinds"] += 1
    return counts


def _met(server: Server, arguments: list[str], call: str, forgery: Forgery) -> list[str]:
    """What is wrong with the quickest of three meetings: on a busy machine one may be slow by chance."""
    for _ in range(3):
        wrong = _wrong(server.run(call=call, arguments=arguments), forgery)
        if not any(sentence.startswith("it took") for sentence in wrong):
            break
    return wrong


def _wrong(ended: Ended, forgery: Forgery) -> list[str]:
    if ended.code != 0:
        return [f"the process ended with {ended.code}: {ended.err[-300:]}"]
    if not ended.out:
        return ["nothing came of it"]
    met = json.loads(ended.out.splitlines()[-1])
    wrong = []
    if not met["error"]:
        wrong.append("it was taken")
    elif forgery.says not in met["error"]:
        wrong.append(f"{forgery.says!r} is not in {met['error']!r:.300}")
    if met["seconds"] > LIMIT_S:
        wrong.append(f"it took {met['seconds']:.1f} s")
    if met["bytes"] > LIMIT_BYTES:
        wrong.append(f"it took {met['bytes'] >> 20} MB")
    return wrong
