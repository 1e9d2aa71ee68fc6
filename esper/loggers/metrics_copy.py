"""A copy of metrics.jsonl that fits into a checkpoint, so that a lost or damaged file can be restored."""

from __future__ import annotations

import base64
import zlib

# The key of the copy in the state of a run's files.
EPOCHS = "epochs"
_BLOCK_BYTES = 64 << 10
# Some 2,000 epochs with a few seeds, a tenth of it when compressed: a checkpoint's state is JSON of a few MB.
LIMIT_BYTES = 4 << 20


class MetricsCopy:
    """The first `LIMIT_BYTES` bytes of a file that grows at its end; kept compressed in blocks."""

    def __init__(self, content: bytes = b"") -> None:
        self._content = bytearray()
        self._packed: list[str] = []
        self.append(content)

    @property
    def content(self) -> bytes:
        return bytes(self._content)

    def append(self, more: bytes) -> None:
        """Add what was appended to the file, up to the size limit."""
        self._content += more[: LIMIT_BYTES - len(self._content)]

    def cut(self, length: int) -> None:
        """Truncate the copy as the file was, to `length` bytes."""
        del self._content[length:]
        del self._packed[length // _BLOCK_BYTES :]

    def to_json(self, length: int | None = None) -> list[str]:
        """The first `length` bytes (None: all) as texts, a block each."""
        size = len(self._content) if length is None else min(length, len(self._content))
        whole = size // _BLOCK_BYTES
        for number in range(len(self._packed), whole):
            self._packed.append(self._pack(number * _BLOCK_BYTES, (number + 1) * _BLOCK_BYTES))
        rest = [self._pack(whole * _BLOCK_BYTES, size)] if size % _BLOCK_BYTES else []
        return [*self._packed[:whole], *rest]

    @classmethod
    def from_json(cls, saved: object) -> MetricsCopy | None:
        """The copy in a checkpoint; None where there is none that can be read. Anything may stand there."""
        if not isinstance(saved, list) or len(saved) * _BLOCK_BYTES > LIMIT_BYTES + _BLOCK_BYTES:
            return None
        try:
            return cls(b"".join(_unpack(block) for block in saved))
        except (ValueError, TypeError, zlib.error):
            return None

    def _pack(self, start: int, end: int) -> str:
        return base64.b64encode(zlib.compress(self._content[start:end], 1)).decode()


def _unpack(block: str) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(block, validate=True), _BLOCK_BYTES)
    if not unpacker.eof:
        raise ValueError("a block that is cut off, or larger than a block may be")
    return content
