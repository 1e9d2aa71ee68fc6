from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.errors import CheckpointError
from esper.tolaria.optimization.packing import Packer, Unpacker

CPU = torch.device("cpu")

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def there(tensor: Tensor, on: str) -> Tensor:
    return tensor.clone()


@given(values)
def test_values_come_back_as_they_were(value: Any) -> None:
    """Tuples stay tuples, integers integers, floats exact, through JSON."""
    packed = json.loads(json.dumps(Packer(copy=True).pack("a", value, CPU)))
    result = Unpacker({}).unpack("a", packed, there)
    assert result == value
    assert repr(result) == repr(value)


def test_tensors_are_kept_under_their_paths() -> None:
    packer = Packer(copy=True)
    packed = packer.pack("w", {"d": [torch.ones(2), (torch.tensor(3),)], "on": 1}, CPU)
    assert {path: tensor.tolist() for path, tensor in packer.tensors.items()} == {
        "w/d/0": [1, 1],
        "w/d/1/0": 3,
    }
    unpacker = Unpacker(packer.tensors)
    result = unpacker.unpack("w", json.loads(json.dumps(packed)), there)
    unpacker.check_all_used()
    assert result["d"][0].tolist() == [1, 1]
    assert isinstance(result["d"][1], tuple)
    assert result["on"] == 1


def test_where_a_tensor_was_is_known() -> None:
    seen = []
    packer = Packer(copy=True)
    packed = packer.pack("a", [torch.ones(1)], CPU), packer.pack("b", [torch.ones(1)], torch.device("meta"))
    unpacker = Unpacker(packer.tensors)
    for path, item in zip("ab", packed, strict=True):
        unpacker.unpack(path, item, lambda tensor, on: (seen.append(on), tensor)[1])
    assert seen == ["param", "cpu"]


def test_two_tensors_of_one_path_are_refused() -> None:
    packer = Packer(copy=True)
    packer.pack("a", torch.ones(1), CPU)
    with pytest.raises(CheckpointError, match="two tensors of the optimiser would be saved as a"):
        packer.pack("a", torch.ones(1), CPU)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, b"bytes", 1j, torch.float32])
def test_other_kinds_are_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"a/0 is a .*, which cannot be saved"):
        Packer(copy=True).pack("a", [value], CPU)
