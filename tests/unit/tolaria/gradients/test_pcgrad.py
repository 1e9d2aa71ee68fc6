"""PCGrad against the paper, against torchjd, and its invariants."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.pcgrad_reference import projected_sum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchjd.aggregation import PCGrad as Oracle

from esper.errors import AggregationError
from esper.tolaria.gradients import PCGrad, Tasks
from esper.tolaria.gradients.gram import count_conflicts, gram_matrix
from esper.tolaria.gradients.pcgrad import draw_orders, pcgrad_weights

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(number: int, dtype: torch.dtype) -> list[list[Tensor]]:
    """2 to 8 tasks with gradients of 1 to 4 tensors of ranks 0 to 4, of unlike sizes, with conflicts."""
    random = generator(number)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    count = draw(2, 8)
    shapes = [[draw(1, 5) for _ in range(draw(0, 4))] for _ in range(draw(1, 4))]
    scales = 10.0 ** torch.empty(count).uniform_(-2, 2, generator=random)
    return [
        [(scale * torch.randn(shape, generator=random, dtype=torch.float64)).to(dtype) for shape in shapes]
        for scale in scales
    ]


def flat(row: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in row])


def combined(rows: list[list[Tensor]], seed: int) -> Tensor:
    tasks = Tasks([str(i) for i in range(len(rows))], rows)
    found = PCGrad(generator(seed)).combine(tasks).gradients
    assert all(g is not None and g.shape == t.shape for g, t in zip(found, rows[0], strict=True))
    return flat([g for g in found if g is not None])


# some seconds, most of them the oracle's: as many cases as the requirement names
@pytest.mark.parametrize("dtype", DTYPES)
def test_five_hundred_cases_agree_with_the_paper_and_with_torchjd(dtype: torch.dtype) -> None:
    """Same order of projections, relative to the result, or where all cancels out to what went in."""
    bound = {torch.float32: 1e-5, torch.float64: 1e-10}.get(dtype, 0.0)
    conflicts = 0
    for number in range(500):
        rows = case(number, dtype)
        before = [flat(row).clone() for row in rows]
        found = combined(rows, seed=number)
        assert found.dtype == dtype
        assert all(torch.equal(flat(row), kept) for row, kept in zip(rows, before, strict=True))
        exact = projected_sum(before, draw_orders(len(rows), generator(number)).tolist())
        conflicts += int(count_conflicts(gram_matrix(torch.stack(before))))
        largest = max(float(g.double().norm()) for g in before)
        # gradients of one element cancel out for good, and nothing is left to be relative to
        cancelled = exact.abs() <= 1e-12 * largest
        if dtype is torch.bfloat16:
            assert (found[cancelled].double().abs() <= 1e-12 * largest).all(), number
            assert units_apart(found[~cancelled], exact[~cancelled].to(dtype)) <= 1, number
            continue
        torch.manual_seed(number)
        oracle = Oracle()(torch.stack(before))
        size = largest if cancelled.all() else float(exact.norm())
        assert (found - exact).norm() <= bound * size, number
        assert (found - oracle).norm() <= bound * size, number
    assert conflicts > 1000


def units_apart(a: Tensor, b: Tensor) -> int:
    """How many bfloat16 numbers lie between two tensors where they differ most."""

    def rank(t: Tensor) -> Tensor:
        bits = t.view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return int((rank(a) - rank(b)).abs().max()) if a.numel() else 0


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("length", [1, 511, 512, 513, 70_001])
def test_inner_products_are_as_good_as_in_float64(dtype: torch.dtype, length: int) -> None:
    matrix = torch.randn(5, length, generator=generator(length)).to(dtype)
    exact = matrix.double() @ matrix.double().T
    sizes = exact.diagonal().sqrt()
    # a float32 is itself rounded by 6e-8
    assert ((gram_matrix(matrix) - exact).abs() <= 3e-8 * sizes[:, None] * sizes).all()


def test_inner_products_do_not_lose_digits_where_the_user_lets_float32_lose_some() -> None:
    matrix = torch.randn(3, 5000, generator=generator(0))
    exact = matrix.double() @ matrix.double().T
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.allclose(gram_matrix(matrix), exact, rtol=1e-12, atol=1e-9)
    finally:
        torch.set_float32_matmul_precision(before)


# -- invariants -------------------------------------------------------------------------------------------

VECTORS = st.integers(0, 10_000).flatmap(
    lambda seed: st.tuples(st.integers(2, 6), st.integers(1, 40)).map(
        lambda size: torch.randn(*size, generator=generator(seed), dtype=torch.float64)
    )
)


def weights(vectors: Tensor, orders: Tensor, epsilon: float = 1e-12) -> Tensor:
    return pcgrad_weights(gram_matrix(vectors), orders, epsilon)


@given(VECTORS, st.integers(0, 99))
def test_without_conflict_it_is_the_sum(vectors: Tensor, seed: int) -> None:
    friendly = vectors.abs()
    found = weights(friendly, draw_orders(len(friendly), generator(seed)))
    assert torch.equal(found, torch.ones(len(friendly), dtype=torch.float64))


@given(VECTORS, st.integers(0, 99))
def test_of_two_each_ends_at_right_angles_to_the_other(vectors: Tensor, seed: int) -> None:
    """With a conflict, g1 + g2 loses exactly both projections; opposed gradients cancel out."""
    a, b = vectors[0], vectors[1]
    inner = a @ b
    expected = a + b
    if inner < 0:
        expected = a - inner / (b @ b) * b + b - inner / (a @ a) * a
    found = weights(torch.stack([a, b]), draw_orders(2, generator(seed))) @ torch.stack([a, b])
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    opposed = torch.stack([a, -3 * a])
    cancelled = weights(opposed, draw_orders(2, generator(seed))) @ opposed
    assert cancelled.norm() <= 1e-9 * a.norm()


@given(VECTORS, st.integers(0, 99))
def test_tasks_can_be_renumbered_where_the_orders_follow(vectors: Tensor, seed: int) -> None:
    count = len(vectors)
    orders = draw_orders(count, generator(seed))
    new = torch.randperm(count, generator=generator(seed + 1))  # new[k]: what is now number k
    place = torch.argsort(new)
    renumbered = place[orders[new]]
    before = weights(vectors, orders) @ vectors
    after = weights(vectors[new], renumbered) @ vectors[new]
    assert torch.allclose(before, after, rtol=1e-9, atol=1e-10)


@given(VECTORS, st.floats(1e-6, 1e6), st.integers(0, 99))
def test_it_scales_with_its_gradients(vectors: Tensor, scale: float, seed: int) -> None:
    """A loss scale in front of it is undone behind it."""
    orders = draw_orders(len(vectors), generator(seed))
    assert torch.allclose(weights(scale * vectors, orders), weights(vectors, orders), rtol=1e-9, atol=1e-9)


@given(VECTORS, st.integers(0, 99))
def test_every_gradient_keeps_at_least_its_own_weight(vectors: Tensor, seed: int) -> None:
    assert (weights(vectors, draw_orders(len(vectors), generator(seed))) >= 1).all()


@given(VECTORS)
def test_conflicts_are_pairs_and_their_share_lies_between_zero_and_one(vectors: Tensor) -> None:
    count = len(vectors)
    pairs = [(i, j) for i in range(count) for j in range(i)]
    expected = sum(bool(vectors[i] @ vectors[j] < 0) for i, j in pairs)
    found = int(count_conflicts(gram_matrix(vectors)))
    assert found == expected
    assert 0 <= found <= len(pairs)


# -- edges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [0.0, 1e-200])
def test_nothing_is_projected_on_a_gradient_without_a_size(zero: float) -> None:
    vectors = torch.stack([torch.ones(4), torch.full((4,), -zero), -2 * torch.ones(4)]).double()
    found = weights(vectors, draw_orders(3, generator(0)))
    assert torch.isfinite(found).all()
    assert torch.allclose(found @ vectors, torch.zeros(4, dtype=torch.float64), atol=1e-12)


def test_epsilon_is_the_norm_up_to_which_a_gradient_counts_as_zero() -> None:
    vectors = torch.tensor([[1.0, 0.0], [-0.1, 0.0]], dtype=torch.float64)
    orders = draw_orders(2, generator(0))
    assert weights(vectors, orders, epsilon=0.05).tolist() != [1, 1]
    # only the large one is still projected on
    assert weights(vectors, orders, epsilon=0.2).tolist() == pytest.approx([1.1, 1.0])
    assert weights(vectors, orders, epsilon=2.0).tolist() == [1, 1]


@pytest.mark.parametrize("epsilon", [-1.0, math.nan])
def test_an_impossible_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(AggregationError, match="epsilon"):
        PCGrad(generator(0), epsilon)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_not_hidden(bad: float) -> None:
    """Fp16's scaler has to see an overflow, and skip the step."""
    rows = [[torch.tensor([1.0, 2.0])], [torch.tensor([-1.0, bad])], [torch.tensor([0.5, -3.0])]]
    assert not torch.isfinite(combined(rows, seed=0)).all()


def test_the_orders_come_from_the_generator_alone() -> None:
    """The state that is saved decides; the global generator is left alone."""
    rows = case(3, torch.float64)
    made = PCGrad(generator(5))
    tasks = Tasks([str(i) for i in range(len(rows))], rows)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made.combine(tasks)
    saved = made.state_dict()
    saved = {name: state.clone() for name, state in saved.items()}
    following = [made.combine(tasks).gradients for _ in range(5)]
    other = PCGrad(generator(99))
    other.load_state_dict(saved)
    for expected in following:
        found = other.combine(tasks).gradients
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=20)
def test_an_order_is_a_permutation_for_each(count: int, seed: int) -> None:
    orders = draw_orders(count, generator(seed))
    assert orders.sort(dim=1).values.tolist() == [list(range(count))] * count
