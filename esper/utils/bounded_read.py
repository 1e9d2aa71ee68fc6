"""Reads small files safely: at the path there may be a FIFO, a device, or a file of any size or content."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

LIMIT_BYTES = 16 << 20


def read_regular(path: Path, limit_bytes: int = LIMIT_BYTES, *, tail: bool = False) -> bytes:
    """Read a regular file; never blocks, as opening a FIFO would.

    Args:
        path: the file.
        limit_bytes: the largest size that is read.
        tail: read the last `limit_bytes` of a longer file instead of raising.

    Raises:
        OSError: it is not a regular file, or longer than `limit_bytes`.
        ValueError: the path contains a null byte.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > limit_bytes:
            if not tail:
                raise OSError(errno.EFBIG, f"longer than {limit_bytes} bytes", str(path))
            file.seek(found.st_size - limit_bytes)
        return file.read(limit_bytes)


def read_object(path: Path, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises as `read_regular`, and `ValueError` for any other content."""
    return parse_object(read_regular(path, limit_bytes))


def parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; raises `ValueError` for anything else."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}, expected an object")
    return found
