from __future__ import annotations

from dataclasses import replace

import pytest
from growth_arms.arms import GROMO, Spec
from growth_arms.tasks import G3

pytest.importorskip("gromo", reason="an extra of the benchmarks")

# GroMo and what it imports warn of their own deprecations
pytestmark = pytest.mark.filterwarnings("default")


def test_both_hidden_layers_grow_to_64_and_every_parameter_is_trained() -> None:
    from growth_arms.gromo_tiny import EVENTS, START, STEP, Tiny, train

    short = replace(G3, shared=(*G3.shared[:-1], "optimization.max_epochs=7"))
    config = Spec(short, GROMO, 0, "heuristic").config
    tiny = Tiny(config)
    tiny.epoch(1)
    small = tiny.params
    tiny.grow(1)
    assert small < tiny.params == 24 * 64 + 24 + 24 * 24 + 24 + 10 * 24 + 10
    before = [p.detach().clone() for p in tiny.model.parameters()]
    tiny.epoch(2)
    assert all((old != new).any() for old, new in zip(before, tiny.model.parameters(), strict=True))
    row = train(config)  # 14 events of growth, each with its statistics: some six seconds
    width = START + EVENTS * STEP
    assert row["params"] == width * 64 + width + width * width + width + 10 * width + 10
    assert len(row["val_curve"]) == 7
    assert row["test"] > 0.5
