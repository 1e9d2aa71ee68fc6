"""Gradients as one vector, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.errors import AggregationError


@dataclass(frozen=True, slots=True)
class Layout:
    """The shapes of the tensors that lie one after the other in a flat vector; `()` is a scalar."""

    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> list[int]:
        """How many elements each takes, 1 for a scalar."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def length(self) -> int:
        """How many elements there are in all."""
        return sum(self.sizes)


def flatten(tensors: Sequence[Tensor], out: Tensor | None = None) -> tuple[Tensor, Layout]:
    """One vector (length,) of the tensors' own device and dtype, a copy, and how to take it apart.

    The copy goes into `out` (length,), where that is given. Raises `RuntimeError` where there is no tensor,
    `AggregationError` for mixed devices or dtypes, an `out` that does not fit and sparse tensors.
    """
    layout = Layout(tuple(t.shape for t in tensors))
    check_alike([*tensors] if out is None or not tensors else [*tensors, out])
    if out is not None:
        check_length(out, layout)
    return torch.cat([t.reshape(-1) for t in tensors], out=out), layout


def unflatten(flat: Tensor, layout: Layout) -> list[Tensor]:
    """Tensors of the layout's shapes, as views of `flat` (length,).

    Raises `AggregationError` where the lengths differ.
    """
    check_length(flat, layout)
    return [part.view(shape) for part, shape in zip(flat.split(layout.sizes), layout.shapes, strict=True)]


def check_length(flat: Tensor, layout: Layout) -> None:
    """Raise `AggregationError` where a vector is not as long as its layout says."""
    if flat.shape != (layout.length,):
        raise AggregationError(
            f"a flat gradient has shape {tuple(flat.shape)}; expected ({layout.length},), as its layout says"
        )


def check_alike(tensors: Sequence[Tensor]) -> None:
    """Raise where there is nothing, or nothing that could be one vector; see `flatten`."""
    if not tensors:
        raise RuntimeError("no gradients available for aggregation")
    for what, kinds in (
        ("devices", {t.device for t in tensors}),
        ("dtypes", {t.dtype for t in tensors}),
        ("layouts", {t.layout for t in tensors} | {torch.strided}),
    ):
        if len(kinds) > 1:
            found = ", ".join(sorted(map(str, kinds)))
            raise AggregationError(f"gradients are of several {what} ({found}); expected all of one")
