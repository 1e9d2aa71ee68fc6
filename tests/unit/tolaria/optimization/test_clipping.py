"""Clipping over everything, or each group on its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.tolaria.optimization.clipping import CLIP_SCOPES, clip, gradient_norm

sizes = st.lists(st.lists(st.floats(0.0, 100.0, width=32), min_size=1, max_size=3), min_size=1, max_size=4)


def groups_of(values: list[list[float]]) -> list[list[nn.Parameter]]:
    groups = [[nn.Parameter(torch.zeros(2)) for _ in group] for group in values]
    for group, given_values in zip(groups, values, strict=True):
        for parameter, value in zip(group, given_values, strict=True):
            parameter.grad = torch.tensor([value, 0.0])
    return groups


def norm(parameters: list[nn.Parameter]) -> float:
    return sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5


@given(sizes, st.sampled_from(CLIP_SCOPES), st.floats(0.1, 50.0))
def test_nothing_is_longer_than_allowed_and_the_norm_before_is_returned(
    values: list[list[float]], scope: str, most: float
) -> None:
    groups = groups_of(values)
    before = norm([p for group in groups for p in group])
    logged = clip(groups, most, scope).item()
    assert logged == pytest.approx(before, rel=1e-4, abs=1e-6)
    parts = groups if scope == "group" else [[p for group in groups for p in group]]
    assert all(norm(part) <= most * 1.0001 for part in parts)


def test_by_group_one_does_not_shrink_another() -> None:
    groups = groups_of([[3.0, 4.0], [100.0]])
    clip(groups, 5.0, "group")
    assert [norm(group) for group in groups] == [pytest.approx(5.0, rel=1e-5), pytest.approx(5.0, rel=1e-5)]
    together = groups_of([[3.0, 4.0], [100.0]])
    clip(together, 5.0, "all")
    assert norm(together[0]) == pytest.approx(5.0 * 5 / (25 + 100**2) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("scope", CLIP_SCOPES)
def test_groups_without_gradients_are_no_obstacle(scope: str) -> None:
    lonely = [[nn.Parameter(torch.ones(2))]]
    assert clip(lonely, 1.0, scope).item() == 0.0
    mixed = groups_of([[8.0]]) + lonely
    assert clip(mixed, 2.0, scope).item() == pytest.approx(8.0)
    assert norm(mixed[0]) == pytest.approx(2.0, rel=1e-4)


def test_by_group_is_all_where_there_is_one_group() -> None:
    one, other = groups_of([[3.0, 7.0]]), groups_of([[3.0, 7.0]])
    clip(one, 1.0, "all")
    clip(other, 1.0, "group")
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one[0], other[0], strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_the_norm_of_all_gradients_is_that_of_torch(missing: int) -> None:
    """To the bit, also where some parameters have no gradient, or none has."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (7,), ())]
    for param in params[missing:]:
        param.grad = torch.randn(param.shape, generator=generator)
    expected = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    assert torch.equal(gradient_norm(params), expected)


@pytest.mark.parametrize("scope", ["all", "group"])
def test_sparse_gradients_are_clipped_as_dense_ones_are(scope: str) -> None:
    """Rows that come more than once in a batch count as their sum."""
    clipped = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table, other = nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 2)
        (10 * other(table(torch.tensor([1, 1, 4]))).square().sum()).backward()
        groups = [list(table.parameters()), list(other.parameters())]
        norms = gradient_norm([*groups[0], *groups[1]]), clip(groups, 0.5, scope)
        grads = [table.weight.grad, other.weight.grad, other.bias.grad]
        clipped.append([*norms, *(g.to_dense() if g.is_sparse else g for g in grads if g is not None)])
    assert all(torch.allclose(a, b) for a, b in zip(*clipped, strict=True))
    assert clipped[0][0] > 0.5
