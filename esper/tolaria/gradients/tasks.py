"""The gradients of a step's tasks, also as rows of a matrix.

A task is a micro-batch of the step, or an objective if the loss has several by name.
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
    """The shapes of the tensors that are concatenated in a flat vector; `()` is a scalar."""

    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each tensor."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def length(self) -> int:
        """The number of elements of the flat vector."""
        return sum(self.sizes)


def flatten(tensors: Sequence[Tensor], out: Tensor | None = None) -> tuple[Tensor, Layout]:
    """Concatenate tensors into one vector (length,) of their device and dtype, a copy.

    Args:
        tensors: dense tensors of any shapes.
        out: the vector to write to.

    Returns:
        The vector, and the layout for `unflatten`.

    Raises:
        RuntimeError: there is no tensor.
        AggregationError: devices or dtypes differ, a tensor is sparse, or `out` does not fit.
    """
    layout = Layout(tuple(t.shape for t in tensors))
    check_alike([*tensors] if out is None or not tensors else [*tensors, out])
    if out is not None:
        check_length(out, layout)
    return torch.cat([t.reshape(-1) for t in tensors], out=out), layout


def unflatten(flat: Tensor, layout: Layout) -> list[Tensor]:
    """Tensors of the layout's shapes, as views of `flat` (length,); raises `AggregationError` for others."""
    check_length(flat, layout)
    return [part.view(shape) for part, shape in zip(flat.split(layout.sizes), layout.shapes, strict=True)]


def check_length(flat: Tensor, layout: Layout) -> None:
    """Raise `AggregationError` unless a vector has the length of its layout."""
    if flat.shape != (layout.length,):
        raise AggregationError(
            f"a flat gradient has shape {tuple(flat.shape)}; expected ({layout.length},), as its layout says"
        )


def check_alike(tensors: Sequence[Tensor]) -> None:
    """Raise if there are no tensors, or tensors that cannot be one vector; see `flatten`."""
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
    """A gradient for each task and parameter, None if the task does not reach the parameter.

    A parameter is shared if at least two tasks reach it. Only shared parameters are part of inner products
    and norms; those that a single task reaches (its head) are not.

    Attributes:
        names: the names of the tasks.
        rows: one for each task, with one gradient per parameter.
        shares: the shares of the step's mean if the tasks are micro-batches, else None.
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
        """The indices of the parameters that at least two tasks reach."""
        return [i for i, column in enumerate(self.columns) if sum(g is not None for g in column) > 1]

    @cached_property
    def layout(self) -> Layout:
        """The layout of the shared parameters in a row of `matrix`."""
        return Layout(tuple(_first(self.columns[i]).shape for i in self.shared))

    @cached_property
    def matrix(self) -> Tensor:
        """The gradients of the shared parameters, flat, one row per task: (tasks, length).

        Raises:
            AggregationError: their devices or dtypes differ.
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
        """For each parameter the unchanged gradient of the first task that reaches it."""
        return [next((g for g in column if g is not None), None) for column in self.columns]

    def with_shared(self, combined: Tensor) -> list[Tensor | None]:
        """A gradient for each parameter: those of `combined` (length,), and the unshared ones."""
        found = self.unshared()
        for i, gradient in zip(self.shared, unflatten(combined, self.layout), strict=True):
            found[i] = gradient
        return found


def _first(column: Row) -> Tensor:
    return next(g for g in column if g is not None)


def _or_zeros(gradient: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
    return like.new_zeros(()).expand(shape) if gradient is None else gradient
