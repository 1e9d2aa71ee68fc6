"""From whose checkpoint a run was begun, written down before it trains: it may be killed before it saves."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from esper.errors import CheckpointError
from esper.utils.files import write_json_atomic
from esper.utils.manifest import LIMIT_BYTES, MANIFEST, parse_json_object, read_bounded

ORIGIN_FILE = "origin.json"


def record_beginning(run_dir: Path, checkpoint: Path) -> None:
    """Write down, durably, that the run in the folder begins from another run's checkpoint."""
    place = os.path.abspath(checkpoint)  # noqa: PTH100 - as it was named: a link may lead elsewhere one day
    write_json_atomic(run_dir / ORIGIN_FILE, {"resumed_from": place, "manifest": _digest(checkpoint)})


def recorded_beginning(run_dir: Path) -> Path | None:
    """The checkpoint that the run in the folder was begun from; None where it was begun from nothing.

    Raises `CheckpointError` where that is not known any more, or where the checkpoint has gone or is another.
    """
    file = run_dir / ORIGIN_FILE
    if not file.exists():
        return None
    found = parse_json_object(file, read_bounded(file, LIMIT_BYTES))
    place, digest = found.get("resumed_from"), found.get("manifest")
    if not isinstance(place, str) or not isinstance(digest, str) or not place or "\0" in place:
        raise CheckpointError(f"{file} does not say which checkpoint the run was begun from")
    checkpoint = Path(place)
    expected = f"the checkpoint that the run in {run_dir} was begun from, or a new folder with another one"
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is not there any more; expected {expected}")
    if _digest(checkpoint) != digest:
        raise CheckpointError(f"{checkpoint} is another one than it was; expected {expected}")
    return checkpoint


def forget_beginning(run_dir: Path) -> None:
    """The run in the folder begins from nothing, whatever an earlier one in it did."""
    (run_dir / ORIGIN_FILE).unlink(missing_ok=True)


def _digest(checkpoint: Path) -> str:
    """SHA-256 of its manifest, which holds those of all its files."""
    return hashlib.sha256(read_bounded(checkpoint / MANIFEST, LIMIT_BYTES)).hexdigest()
