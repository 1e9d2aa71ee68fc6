"""The state of a run is collected and restored unchanged."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.buffers import BufferPool
from esper.tolaria.checkpoint.registry import REFERENCE, Generators, StateRegistry


class Owner:
    """Holds anything as its state."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        self.value = state["value"]


def manager(**owners: Any) -> StateRegistry:
    made = StateRegistry()
    for name, owner in owners.items():
        made.register(name, owner)
    return made


def round_trip(value: Any) -> Any:
    tensors, state = manager(owner=Owner(value)).capture()
    other = Owner()
    manager(owner=other).restore(tensors, json.loads(json.dumps(state)))
    return other.value


tensors = st.integers(0, 4).map(lambda n: torch.arange(n))
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@given(values)
def test_any_state_comes_back_through_json_or_is_refused(value: Any) -> None:
    try:
        found = round_trip(value)
    except CheckpointError as error:
        assert "two tensors of owner" in str(error) or REFERENCE in str(error)
    else:
        assert equal(found, value)


@pytest.mark.parametrize(
    "value",
    [
        {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}},
        {"1": torch.ones(1), 1: torch.zeros(1)},
        {REFERENCE: "a policy's own word"},
    ],
)
def test_names_that_would_lead_elsewhere_are_refused(value: Any) -> None:
    with pytest.raises(CheckpointError):
        manager(owner=Owner(value)).capture()


def test_what_is_captured_is_a_copy() -> None:
    tensor = torch.zeros(3)
    tensors, _ = manager(owner=Owner({"x": tensor})).capture()
    tensor += 1
    assert torch.equal(tensors["owner"]["value/x"], torch.zeros(3))


def test_owners_without_tensors_have_no_file() -> None:
    tensors, state = manager(a=Owner(1), b=Owner(torch.ones(1))).capture()
    assert list(tensors) == ["b"]
    assert list(state) == ["a", "b"]


def test_owners_are_restored_in_the_order_they_registered_in() -> None:
    order: list[str] = []

    class Notes(Owner):
        def load_state_dict(self, state: Any) -> None:
            order.append(state["value"])

    tensors, state = manager(model=Owner("model"), follower=Owner("follower")).capture()
    reordered = dict(reversed(state.items()))
    manager(model=Notes(), follower=Notes()).restore(tensors, reordered)
    assert order == ["model", "follower"]


def test_a_missing_part_is_named_unless_it_is_optional() -> None:
    tensors, state = manager(a=Owner(1)).capture()
    with pytest.raises(CheckpointError, match="no state of b"):
        manager(a=Owner(), b=Owner()).restore(tensors, state)
    kept = Owner("as it was")
    manager(a=Owner(), b=kept).restore(tensors, state, optional=["b"])
    assert kept.value == "as it was"


def test_a_missing_tensor_is_named() -> None:
    _, state = manager(a=Owner(torch.ones(1))).capture()
    with pytest.raises(CheckpointError, match="'value'"):
        manager(a=Owner()).restore({}, state)


class Picky(Owner):
    """Takes no state."""

    def load_state_dict(self, state: Any) -> None:
        raise RuntimeError("it is two too small")


def test_what_does_not_fit_is_an_error_that_names_the_owner() -> None:
    tensors, state = manager(a=Owner(1), b=Owner(2)).capture()
    with pytest.raises(CheckpointError, match=r"state of a does not fit: it is two too small"):
        manager(a=Picky(), b=Owner()).restore(tensors, state)


def test_tolerant_loading_takes_what_fits_and_tells_the_rest() -> None:
    tensors, state = manager(a=Owner(1), b=Owner(2)).capture()
    logged: list[str] = []
    other = Owner()
    manager(a=Picky(), b=other, c=Owner()).restore(tensors, state, on_mismatch=logged.append)
    assert other.value == 2
    assert len(logged) == 2
    assert "state of a" in logged[0]
    assert "state of c" in logged[1]


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), *torch.rand(2).tolist(), *torch.randn(3).tolist()]


def test_every_generator_of_the_process_is_saved() -> None:
    random.gauss(0, 1)
    np.random.normal()
    torch.randn(1)
    tensors, state = manager(generators=Generators()).capture()
    expected = draws()
    other = Generators()
    manager(generators=other).restore(tensors, json.loads(json.dumps(state)))
    assert draws() == expected
    assert other.inexact == []


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", np.float32(1.0), {"a": [{"b": complex(1)}]}])
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"the state of owner holds a .* at 'value"):
        manager(owner=Owner(value)).capture()


def test_numbers_of_numpy_and_tables_of_all_kinds_are_taken(tmp_path: Any) -> None:
    from collections import OrderedDict, defaultdict

    given_ = {"f": np.float64(0.5), "o": OrderedDict(a=1), "d": defaultdict(list, b=[2]), "t": (1, (2,))}
    assert round_trip(given_) == {"f": 0.5, "o": {"a": 1}, "d": {"b": [2]}, "t": [1, [2]]}


def test_captured_state_is_a_copy() -> None:
    """Also dicts and lists, because a snapshot stays in memory."""
    inner = {"rows": [1, 2], "table": {"x": [3]}}
    _, state = manager(owner=Owner(inner)).capture()
    inner["rows"].append(9)  # type: ignore[attr-defined]
    inner["table"]["x"].append(9)  # type: ignore[index,call-overload]
    assert state["owner"]["value"] == {"rows": [1, 2], "table": {"x": [3]}}


def test_kept_memory_is_used_and_given_back() -> None:
    pool, owner = BufferPool(), Owner({"x": torch.zeros(5)})
    made = manager(owner=owner)
    first, _ = made.capture(pool)
    pointer = first["owner"]["value/x"].data_ptr()
    pool.release(first)
    owner.value["x"] += 1
    second, _ = made.capture(pool)
    assert second["owner"]["value/x"].data_ptr() == pointer
    assert torch.equal(second["owner"]["value/x"], torch.ones(5))


def test_a_state_that_is_kept_is_not_changed_by_what_it_was_restored_into() -> None:
    """Owners keep references to the tensors that they load."""
    made = manager(owner=Owner(torch.zeros(3)))
    tensors, state = made.capture()
    made.restore(tensors, state, copy=True)
    made.owners["owner"].value += 1  # type: ignore[attr-defined]
    assert torch.equal(tensors["owner"]["value"], torch.zeros(3))
    made.restore(tensors, state)
    made.owners["owner"].value += 1  # type: ignore[attr-defined]
    assert torch.equal(tensors["owner"]["value"], torch.ones(3))  # the control


def test_what_is_only_read_is_not_copied_at_all() -> None:
    owner, made = Owner(torch.zeros(3)), StateRegistry()
    made.register("owner", owner, use="reads")
    tensors, state = made.capture()
    assert tensors["owner"]["value"] is owner.value
    made.restore(tensors, state, copy=True)
    assert owner.value is tensors["owner"]["value"]


@pytest.mark.parametrize("raised", [AttributeError, IndexError, KeyError, OverflowError, RecursionError])
def test_whatever_a_strange_state_makes_an_owner_raise_is_a_misfit(raised: type[Exception]) -> None:
    class Strange(Owner):
        def load_state_dict(self, state: Any) -> None:
            raise raised("strange")

    tensors, state = manager(a=Owner(1)).capture()
    with pytest.raises(CheckpointError, match="state of a does not fit"):
        manager(a=Strange()).restore(tensors, state)
