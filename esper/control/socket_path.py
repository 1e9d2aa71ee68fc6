"""Where a run's socket is: in a folder that is the user's alone, its path noted in the run folder."""

from __future__ import annotations

import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from esper.utils.bounded_read import read_object

# The run folder's note of where its socket is.
ADDRESS_FILE = "control.json"
# How old a socket without a listener must be before its run counts as dead.
_SETTLED_S = 60.0
# Linux takes 107 bytes, macOS 103.
LONGEST_PATH_BYTES = 100

_NOTE_LIMIT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """Where a run listens: its socket, and the process that made it."""

    socket: str
    pid: int
    host: str


def read_address(run_dir: Path) -> ControlAddress | None:
    """The note in a run folder; None where there is none or it cannot be read."""
    try:
        found = read_object(run_dir / ADDRESS_FILE, _NOTE_LIMIT_BYTES)
        return ControlAddress(str(found["socket"]), int(found["pid"]), str(found["host"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def render_address(note: ControlAddress) -> bytes:
    return json.dumps(asdict(note)).encode() + b"\n"


def socket_path(environment: Mapping[str, str], temp: Path) -> Path:
    """A fresh path for a socket, below XDG_RUNTIME_DIR, else below `temp`, in a folder of mode 0700.

    Raises `OSError` saying why each place is unfit: not this user's, open to others, a link, too long.
    """
    reasons = []
    for folder in _places(environment, temp):
        path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        try:
            if len(os.fsencode(path)) > LONGEST_PATH_BYTES:
                raise OSError(f"its path is longer than {LONGEST_PATH_BYTES} bytes")
            _make_private(folder)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
        else:
            _sweep(folder)
            return path
    raise OSError(f"no folder for a socket: {'; '.join(reasons)}")


def _places(environment: Mapping[str, str], temp: Path) -> Iterator[Path]:
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # noqa: PTH117 - a text that may be empty, not yet a path
        yield Path(runtime, "esper")
    yield temp.absolute() / f"esper-{os.getuid()}"


def _sweep(folder: Path) -> None:
    """Remove the sockets of runs that were killed."""
    for path in folder.glob("*.sock"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if time.time() - path.stat().st_mtime < _SETTLED_S:
                continue
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def _make_private(folder: Path) -> None:
    """Create the folder, or check that it is this user's own: all users share the temporary folder."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError("it is a link or a file, expected a folder")
    if found.st_uid != os.getuid():
        raise OSError(f"it belongs to user {found.st_uid}")
    if found.st_mode & 0o077:
        raise OSError(f"others may use it (mode {stat.S_IMODE(found.st_mode):04o}, expected 0700)")
