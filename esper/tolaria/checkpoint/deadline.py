"""A missed deadline, told to other processes: a few bytes in a file that all of them map."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

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
