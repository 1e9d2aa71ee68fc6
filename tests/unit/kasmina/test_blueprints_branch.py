"""A convnet of its own from an image or a sequence to features: fit, exact cost, silence at birth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.kasmina.blueprints import SiteShape, get_blueprint, measured_cost

BRANCH = get_blueprint("conv_branch")


@given(
    st.integers(1, 3),
    st.lists(st.integers(4, 19), min_size=1, max_size=2),
    st.integers(1, 7),
    st.integers(0, 11),
)
@settings(max_examples=40)
def test_cost_shape_and_silence_hold_for_images_and_sequences(
    channels: int, space: list[int], classes: int, offer: int
) -> None:
    shape = SiteShape("features", (channels, *space), (classes,))
    options = BRANCH.sizes(shape)[offer]
    module = BRANCH.build(shape, None, **options)
    assert BRANCH.cost(shape, **options) == measured_cost(module, shape)
    for training in (True, False):
        out = module.train(training)(torch.randn(3, *shape.in_shape))
        assert out.shape == (3, classes) and not out.any()


def test_every_parameter_wakes_up() -> None:
    shape = SiteShape("features", (1, 8, 8), (4,))
    torch.manual_seed(0)
    module = BRANCH.build(shape, torch.Generator().manual_seed(1), hidden=4, depth=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(torch.randn(16, 1, 8, 8)), torch.arange(16) % 4).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize(
    "shape",
    [
        SiteShape("features", (16,), (4,)),
        SiteShape("features", (3, 3, 3), (4,)),
        SiteShape("features", (5, 16), (5, 16)),
        SiteShape("conv2d", (3, 8, 8), (4, 8, 8)),
    ],
)
def test_elsewhere_it_does_not_fit_and_says_why(shape: SiteShape) -> None:
    assert "image or a sequence" in str(BRANCH.unsupported(shape)) and BRANCH.sizes(shape) == []
