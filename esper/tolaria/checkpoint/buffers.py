"""A pool of tensors that copies of a state are written into."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


class Buffers:
    """A pool of tensors by shape, stride, dtype and device.

    Fresh memory costs many times more than the copy into it (the system allocates it page by page, on first
    touch), so returned tensors are reused. Not thread-safe.
    """

    def __init__(self) -> None:
        self._free: dict[_Layout, list[Tensor]] = {}
        self._lent: dict[int, tuple[_Layout, Tensor]] = {}

    @property
    def free_bytes(self) -> int:
        """Bytes that are held and not lent."""
        return sum(t.nbytes for row in self._free.values() for t in row)

    def copy(self, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copies of named tensors, lent until they are given back; nothing waits for a device.

        Where there is no memory for all of them, none is lent.
        """
        copies: dict[str, dict[str, Tensor]] = {name: {} for name in groups}
        sources, targets = [], []
        try:
            for name, group in groups.items():
                for path, source in group.items():
                    copies[name][path] = target = self._take(source)
                    sources.append(source)
                    targets.append(target)
            with torch.no_grad():
                if targets:
                    torch._foreach_copy_(targets, sources)
        except BaseException:
            self.give(copies)
            raise
        return copies

    def give(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what was lent of these tensors; others among them are none of the pool's."""
        for group in groups.values():
            for tensor in group.values():
                if (lent := self._lent.pop(id(tensor), None)) is not None:
                    self._free.setdefault(lent[0], []).append(tensor)

    def trim(self, limit_bytes: int) -> None:
        """Let go of what is not lent until at most `limit_bytes` of it are left, the largest first."""
        excess = self.free_bytes - limit_bytes
        for row in sorted(self._free.values(), key=lambda row: -row[0].nbytes if row else 0):
            while row and excess > 0:
                excess -= row.pop().nbytes
        self._free = {layout: row for layout, row in self._free.items() if row}

    def _take(self, like: Tensor) -> Tensor:
        layout = like.shape, like.stride(), like.dtype, like.device
        row = self._free.get(layout)
        tensor = row.pop() if row else torch.empty_like(like, requires_grad=False)
        self._lent[id(tensor)] = layout, tensor
        return tensor
