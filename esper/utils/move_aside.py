"""Moves files of an earlier run out of the way, under names that say so; nothing is removed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path


def move_aside(paths: Sequence[Path]) -> list[str]:
    """Rename each file to `<name>.before-1`, or all to the first number that none of them has yet.

    TensorBoard shows every file whose name contains its mark: such a file gets a folder `before-1` instead,
    which is a run of its own there. Returns `<old name> -> <new name>` for each.
    """
    said = []
    for path, new in zip(paths, names_aside(paths), strict=True):
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
        said.append(f"{path.name} -> {new.relative_to(path.parent)}")
    return said


def names_aside(paths: Sequence[Path]) -> list[Path]:
    """The paths that `move_aside` would give these files; nothing is moved."""
    names = ([_aside(path, number) for path in paths] for number in count(1))
    return next(row for row in names if not any(path.exists() for path in row))


def _aside(path: Path, number: int) -> Path:
    if "tfevents" in path.name:
        return path.parent / f"before-{number}" / path.name
    return path.with_name(f"{path.name}.before-{number}")
