"""R5: files of a real checkpoint are altered, cut, lost and exchanged; none of it may pass unnoticed."""

from __future__ import annotations

import random
from pathlib import Path

from faults.harness.fault_counts import Budget, FaultCounts

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import find_checkpoint, load_checkpoint

Contents = dict[str, bytes]
_SECTOR = 512


def flipped(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """One bit is another."""
    altered = bytearray(files[name])
    altered[draw.randrange(len(altered))] ^= 1 << draw.randrange(8)
    files[name] = bytes(altered)


def cut(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """The end is missing."""
    files[name] = files[name][: draw.randrange(len(files[name]))]


def longer(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """Something follows the end."""
    files[name] += draw.randbytes(draw.randint(1, 100))


def zeroed(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """A sector never reached the disk."""
    at = draw.randrange(len(files[name]))
    lost = files[name][at : at + _SECTOR]
    files[name] = files[name][:at] + bytes(len(lost)) + files[name][at + _SECTOR :]


def deleted(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """A file is gone."""
    del files[name]


def exchanged(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """Two files have each other's names."""
    other = draw.choice(sorted(files))
    files[name], files[other] = files[other], files[name]


def stale(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """A file is that of the checkpoint before."""
    files[name] = old[name]


def foreign(files: Contents, old: Contents, name: str, draw: random.Random) -> None:
    """A file is there that was never saved."""
    files[f"x{draw.randrange(100)}.safetensors"] = files[name]


KINDS = (flipped, flipped, flipped, cut, longer, zeroed, deleted, exchanged, stale, foreign)


def corruptions(folder: Path, budget: Budget) -> FaultCounts:
    """R5: damage the newest of the checkpoints in `folder`, over and over, and look for a good one."""
    counts = FaultCounts("R5")
    newest, before = newest_two(folder)
    whole, old = read(newest), read(before)
    while budget.lasts(counts):
        kind = KINDS[counts.tries % len(KINDS)]
        name = budget.draw.choice(sorted(whole))
        files = dict(whole)
        kind(files, old, name, budget.draw)
        fired = files != whole
        put(newest, files)
        wrong = [f"{kind.__name__} {name}: {s}" for s in unnoticed(folder, newest, before)]
        counts.note(fired, wrong, kind.__name__)
    put(newest, whole)
    load_checkpoint(find_checkpoint(newest).path)
    return counts


def unnoticed(folder: Path, newest: Path, before: Path) -> list[str]:
    """What is wrong with how the damaged newest checkpoint is met: by its name, and among the others."""
    wrong = []
    try:
        load_checkpoint(newest)
        wrong.append("loaded without a word")
    except CheckpointError as error:
        if newest.name not in str(error):
            wrong.append(f"refused without its name: {error}")
    try:
        found = find_checkpoint(folder)
    except CheckpointError as error:
        return [*wrong, f"nothing was found in its place: {error}"]
    if found.path != before:
        wrong.append(f"{found.path.name} was taken instead of {before.name}")
    if len(found.refused) != 1 or newest.name not in found.refused[0]:
        wrong.append(f"the refusals say {found.refused}")
    return wrong


def newest_two(folder: Path) -> tuple[Path, Path]:
    newest, before, *_ = sorted(folder.iterdir(), reverse=True)
    return newest, before


def read(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put(folder: Path, files: Contents) -> None:
    """Make the folder hold just these files."""
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
