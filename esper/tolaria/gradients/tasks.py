"""The gradients of a step's tasks, side by side.

A task is a micro-batch of the step's window, or an objective where the loss has several by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from esper.errors import AggregationError
from esper.tolaria.gradients.gram import gram_matrix


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


Row = Sequence[Tensor | None]


@dataclass(frozen=True)
class Tasks:
    """One gradient a task and parameter, None where a task does not reach a parameter.

    `rows` has one entry a task, each with one entry a parameter; `names` are those of the objectives;
    `shares` are the shares of the window's mean where the tasks are micro-batches, else None.

    A parameter is shared where at least two tasks reach it. Only there can tasks be at odds: what a single
    task reaches (a head of its own) takes no part in inner products and norms.
    """

    names: Sequence[str]
    rows: Sequence[Row]
    shares: Sequence[float | Tensor] | None = None

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.rows}
        if len(lengths) > 1:
            raise AggregationError(f"tasks have {sorted(lengths)} gradients; expected one a parameter each")
        if not any(gradient is not None for row in self.rows for gradient in row):
            raise RuntimeError("no gradients available for aggregation")

    @cached_property
    def columns(self) -> list[tuple[Tensor | None, ...]]:
        """The gradients by parameter."""
        return list(zip(*self.rows, strict=True))

    @cached_property
    def shared(self) -> list[int]:
        """Which parameters at least two tasks reach."""
        return [i for i, column in enumerate(self.columns) if sum(g is not None for g in column) > 1]

    @cached_property
    def layout(self) -> Layout:
        """How the shared parameters lie in a row of `matrix`."""
        return Layout(tuple(_first(self.columns[i]).shape for i in self.shared))

    @cached_property
    def matrix(self) -> Tensor:
        """The gradients of the shared parameters, flat, one row a task: (tasks, length).

        Raises `AggregationError` where they are not of one device and dtype.
        """
        like = self._like
        matrix = like.new_empty(len(self.rows), self.layout.length)
        shapes = self.layout.shapes
        for flat, row in zip(matrix, self.rows, strict=True):
            given = [row[i] for i in self.shared]
            flatten([_or_zeros(g, shape, like) for g, shape in zip(given, shapes, strict=True)], out=flat)
        return matrix

    @property
    def _like(self) -> Tensor:
        return _first(self.columns[self.shared[0]])

    @cached_property
    def products(self) -> Tensor:
        """The Gram matrix of the rows of `matrix`: (tasks, tasks), float64."""
        return gram_matrix(self.matrix)

    def unshared(self) -> list[Tensor | None]:
        """For each parameter the gradient of the first task that reaches it, untouched."""
        return [next((g for g in column if g is not None), None) for column in self.columns]

    def with_shared(self, combined: Tensor) -> list[Tensor | None]:
        """A gradient for each parameter: `combined` (length,) taken apart, and what a single task gave."""
        found = self.unshared()
        for i, gradient in zip(self.shared, unflatten(combined, self.layout), strict=True):
            found[i] = gradient
        return found


def _first(column: Row) -> Tensor:
    return next(g for g in column if g is not None)


def _or_zeros(gradient: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
    return like.new_zeros(()).expand(shape) if gradient is None else gradient
