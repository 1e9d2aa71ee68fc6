"""A topology that asks for more than was saved with it is refused before anything is made of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grown import make_host
from helpers.runs import germinate, same, weights
from torch import Tensor

from esper.errors import GrowthError
from esper.kasmina import MorphableModel
from esper.kasmina.topology_checks import TOPOLOGY_LIMIT_BYTES

GIANT = 1 << 40


def saved(**options: Any) -> tuple[MorphableModel, dict[str, Tensor]]:
    """A model with a grown seed, and its state dict."""
    grown = make_host(blend_steps=0)
    grown.do(germinate("a", "mlp", options=options))
    return grown.model, {name: t.clone() for name, t in grown.model.state_dict().items()}


def altered(state: dict[str, Tensor], **changes: Any) -> dict[str, Tensor]:
    topology = json.loads(bytes(state["_extra_state"].tolist()))
    topology["seeds"][0] |= changes
    raw = bytearray(json.dumps(topology).encode())
    return state | {"_extra_state": torch.frombuffer(raw, dtype=torch.uint8)}


def peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_what_was_saved_is_taken_up_again() -> None:
    model, state = saved(hidden=8, depth=2)
    fresh = make_host().model
    fresh.load_state_dict(state)
    assert same(weights(fresh), weights(model))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": {"hidden": GIANT}}, "hidden"),
        ({"options": {"hidden": 1 << 20}}, "values"),
        ({"options": {"hidden": 3_000_000}}, "hidden"),
        ({"options": {"depth": GIANT}}, "depth"),
        ({"options": {"depth": 100_000, "hidden": 2}}, "depth"),
        ({"in_shape": [GIANT], "out_shape": [GIANT]}, "samples"),
        ({"in_shape": [1 << 28], "out_shape": [1 << 28]}, "values"),
        ({"in_shape": [1 << 16] * 9}, "samples"),
        ({"blueprint": "attention", "in_shape": [4, GIANT], "out_shape": [4, GIANT]}, "samples"),
        ({"blueprint": "conv_heavy", "layout": "conv2d", "in_shape": [1 << 14, 8, 8],
          "out_shape": [1 << 14, 8, 8]}, "values"),
        ({"in_shape": "wide"}, "damaged"),
        ({"options": 7}, "damaged"),
    ],
)  # fmt: skip
def test_giants_are_refused_at_once_and_nothing_changes(changes: dict[str, Any], sentence: str) -> None:
    _, state = saved()
    model = make_host().model
    before, topology = weights(model), model.topology()
    Path("/proc/self/clear_refs").write_text("5")
    began, memory = time.process_time(), peak_kb()
    with pytest.raises(GrowthError, match=sentence):
        model.load_state_dict(altered(state, **changes))
    assert time.process_time() - began < 2
    assert peak_kb() - memory < 50_000
    assert same(weights(model), before)
    assert model.topology() == topology


@pytest.mark.parametrize(
    "extra",
    [
        torch.zeros(TOPOLOGY_LIMIT_BYTES + 1, dtype=torch.uint8),
        torch.zeros(4),
        torch.zeros(2, 2, dtype=torch.uint8),
        torch.frombuffer(bytearray(b"[1]"), dtype=torch.uint8),
        torch.frombuffer(bytearray(b"[" * 100_000), dtype=torch.uint8),
    ],
)
def test_a_topology_that_is_none_is_refused(extra: Tensor) -> None:
    _, state = saved()
    with pytest.raises(GrowthError, match="topology"):
        make_host().model.load_state_dict(state | {"_extra_state": extra})
