"""Extra state of any kind that JSON and tensors can hold, as tensors of bytes and back."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.kasmina.extra_state import pack_state, unpack_state

VALUES: list[Any] = [
    None,
    3,
    True,
    2**70,
    "x\u00e4",
    -0.0,
    float("inf"),
    b"\x00\xff",
    [],
    (1, (2,)),
    {1, 2},
    frozenset({"a"}),
    {"a": None, 3: [1.5], (1, 2): {"tensor": 0}},
    OrderedDict(b=1, a=OrderedDict()),
]


def through(value: Any) -> Any:
    state: dict[str, Any] = {"m.host.x._extra_state": value, "other": value}
    pack_state(state, "m.")
    assert isinstance(state["m.host.x._extra_state"], Tensor) and state["other"] is value
    unpack_state(state, "m.")
    return state["m.host.x._extra_state"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    found = through(value)
    assert type(found) is type(value)
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(()), torch.ones(0, 2), torch.eye(3)[:, 1], torch.ones(2, dtype=torch.bfloat16)]
)
def test_tensors_in_it_come_back_to_the_bit_and_share_nothing(tensor: Tensor) -> None:
    found = through({"a": [tensor, tensor]})["a"]
    assert all(torch.equal(t, tensor) and t.dtype == tensor.dtype for t in found)
    tensor.fill_(7)
    assert not tensor.numel() or not torch.equal(found[0], tensor)


def test_tensors_stay_as_they_are_and_equal_values_give_equal_bytes() -> None:
    tensor = torch.arange(30, dtype=torch.uint8)
    states = [{"a": tensor, "b": {"x": [1, tensor]}} for _ in range(2)]
    for state in states:
        pack_state(state)
    assert states[0]["a"] is tensor
    assert torch.equal(states[0]["b"], states[1]["b"])
    unpack_state(states[0])
    assert states[0]["a"] is tensor


class Mine(dict[str, int]): ...


@pytest.mark.parametrize(
    "value", [object(), Mine(), defaultdict(int), threading.Lock, {"a": [torch.zeros(2).to_sparse()]}, 1j]
)
def test_what_cannot_be_held_names_the_module(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"the extra state of module 'host\.x' cannot be saved"):
        pack_state({"host.x._extra_state": value})


def test_what_is_too_deep_or_damaged_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="cannot be saved"):
        pack_state({"x._extra_state": deep})
    state: dict[str, Any] = {"x._extra_state": {"a": 1}}
    pack_state(state)
    for at in range(25, state["x._extra_state"].numel(), 7):
        damaged = state["x._extra_state"].clone()
        damaged[at] = 255 - damaged[at]
        try:
            unpack_state({"x._extra_state": damaged})
        except CheckpointError:
            continue
