"""R23: a killed run's checkpoints are moved, linked to another disk, behind a broken link, or read-only."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.processes import MAIN, ChildProcess, Server
from faults.harness.revival import Moment, Whole, after, interrupted
from faults.harness.runs import command

# What is not the run's work: these say who was there and how a command ended.
_PER_PROCESS = ("run.lock", "status.json", "control.json", ".hydra", "esper.log", "train.log")


def relocations(
    server: Server, folder: Path, whole: Whole, budget: Budget, call: str = MAIN, only: Sequence[str] = ()
) -> FaultCounts:
    """R23: one run is killed; each copy of it is met with its checkpoints elsewhere."""
    counts = FaultCounts("R23")
    killed = folder / "killed"
    # by the third epoch's line one save is logged
    process = interrupted(server, killed, Moment("first", 0.0, epochs=3), ChildProcess.kill)
    assert process.code == -signal.SIGKILL, process.err
    for name in only or CASES:
        if not budget.lasts(counts):
            break
        run = folder / name
        shutil.copytree(killed, run)
        with other_disk(folder / f"{name}-disk") as (disk, kind):
            wrong = CASES[name](server, run, disk, whole, call)
        counts.note(True, [f"{name}: {sentence}" for sentence in wrong], name, kind)
    return counts


@contextmanager
def other_disk(place: Path) -> Iterator[tuple[Path, str]]:
    """A file system of its own where that is allowed, else a second folder; and which of them it is."""
    place.mkdir()
    with ExitStack() as owned:
        mounted = _command("mount", "-t", "tmpfs", "none", str(place))
        if mounted:
            owned.callback(_command, "umount", "--lazy", str(place))
        yield place, "another disk" if mounted else "another folder"


def _command(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True).returncode == 0


def _linked(server: Server, run: Path, disk: Path, whole: Whole, call: str) -> list[str]:
    shutil.copytree(run / "checkpoints", disk / "checkpoints")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(disk / "checkpoints")
    wrong = after(run, server.run(*command(run), call=call), whole)
    return wrong + ([] if any((disk / "checkpoints").glob("epoch-0008*")) else ["nothing was saved there"])


def _moved(server: Server, run: Path, disk: Path, whole: Whole, call: str) -> list[str]:
    shutil.copytree(run / "checkpoints", disk / "checkpoints")
    shutil.rmtree(run / "checkpoints")
    wrong = _refused(server, run, f"{run / 'checkpoints'} does not exist", call)
    if wrong:
        return wrong
    shutil.copytree(disk / "checkpoints", run / "checkpoints")
    return wrong + after(run, server.run(*command(run), call=call), whole)


def _dangling(server: Server, run: Path, disk: Path, whole: Whole, call: str) -> list[str]:
    shutil.copytree(run / "checkpoints", disk / "away")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(disk / "checkpoints")
    wrong = _refused(server, run, f"is a link to {disk / 'checkpoints'}, which is not there", call)
    if (disk / "checkpoints").exists():
        return [*wrong, "the link's target was made"]
    (disk / "away").rename(disk / "checkpoints")
    return wrong + after(run, server.run(*command(run), call=call), whole)


def _unwritable(server: Server, run: Path, disk: Path, whole: Whole, call: str) -> list[str]:
    saved = disk / "checkpoints"
    shutil.copytree(run / "checkpoints", saved)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(saved)
    if not _command("mount", "-o", "remount,ro", str(disk)):
        saved.chmod(0o555)
    wrong = _refused(server, run, "cannot be written to", call)
    if not _command("mount", "-o", "remount,rw", str(disk)):
        saved.chmod(0o755)
    return wrong + after(run, server.run(*command(run), call=call), whole)


def _refused(server: Server, run: Path, reason: str, call: str) -> list[str]:
    """What is wrong with how `auto` is met; nothing of the run may be another than before."""
    before = _work(run)
    ended = server.run(*command(run), call=call)
    wrong = [] if ended.code == 2 else [f"expected a refusal, it ended with {ended.code}"]
    wrong += [
        f"{name} was removed or changed" for name, text in before.items() if _work(run).get(name) != text
    ]
    if "Traceback" in ended.err or reason not in " ".join(ended.err.split()):
        wrong.append(f"{reason!r} is not in the output: {ended.err[-400:]}")
    return wrong


def _work(run: Path) -> dict[str, str]:
    """What the run has written, by its hash."""
    files = (path for path in run.rglob("*") if path.is_file())
    names = {str(path.relative_to(run)): path for path in files}
    kept = {name: path for name, path in names.items() if not name.startswith(_PER_PROCESS)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()}


CASES: dict[str, Callable[[Server, Path, Path, Whole, str], list[str]]] = {
    "linked": _linked,
    "moved": _moved,
    "dangling": _dangling,
    "unwritable": _unwritable,
}
