"""A pool of tensors that copies of a state are written into."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


class BufferPool:
    """A pool of tensors by shape, stride, dtype and device.

    Fresh memory costs many times more than the copy into it (the system allocates it page by page, on first
    touch), so released tensors are reused. Not thread-safe.
    """

    def __init__(self) -> None:
        self._free: dict[_Layout, list[Tensor]] = {}
        self._in_use: dict[int, tuple[_Layout, Tensor]] = {}

    @property
    def free_bytes(self) -> int:
        """Bytes of the tensors that are not in use."""
        return sum(t.nbytes for row in self._free.values() for t in row)

    def copy(self, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copy named tensors into tensors of the pool, which are in use until `release`.

        Does not synchronise with a device. If memory runs out, all copies made so far are released.

        Args:
            groups: tensors by owner and path.

        Returns:
            The copies, under the same names.
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
            self.release(copies)
            raise
        return copies

    def release(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Return tensors to the pool; those that the pool did not hand out are ignored."""
        for group in groups.values():
            for tensor in group.values():
                if (entry := self._in_use.pop(id(tensor), None)) is not None:
                    self._free.setdefault(entry[0], []).append(tensor)

    def trim(self, limit_bytes: int) -> None:
        """Free unused tensors, largest first, until at most `limit_bytes` of them are left."""
        excess = self.free_bytes - limit_bytes
        for row in sorted(self._free.values(), key=lambda row: -row[0].nbytes if row else 0):
            while row and excess > 0:
                excess -= row.pop().nbytes
        self._free = {layout: row for layout, row in self._free.items() if row}

    def _take(self, like: Tensor) -> Tensor:
        layout = like.shape, like.stride(), like.dtype, like.device
        row = self._free.get(layout)
        tensor = row.pop() if row else torch.empty_like(like, requires_grad=False)
        self._in_use[id(tensor)] = layout, tensor
        return tensor
