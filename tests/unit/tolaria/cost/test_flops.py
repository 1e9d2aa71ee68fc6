"""FLOPs of a step, with grouped convolutions counted correctly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.kasmina import wrap
from esper.tolaria.cost.flops import count_flops


def counted(layer: nn.Module) -> tuple[float, float, float]:
    """Forward and both of esper, both of torch's own formula, for a batch of two."""
    model = wrap(nn.Sequential(layer), ["0"])
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    forward, both = count_flops(model, lambda: model.forward(x).sum(), 2)
    counter = FlopCounterMode(display=False)
    with counter:
        torch.autograd.grad(model.forward(x).sum(), list(model.parameters()))
    return forward, both, counter.get_total_flops() / 2


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Conv2d(8, 4, 3, stride=2),
        nn.ConvTranspose2d(8, 4, 3, stride=2),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    ],
)
def test_without_groups_it_is_torchs_own_count(layer: nn.Module) -> None:
    forward, both, torchs = counted(layer)
    assert both == torchs == 2 * forward  # the gradient of the weight alone


def test_a_grouped_convolution_costs_as_much_backward_as_forward_for_each_gradient() -> None:
    """torch 2.13 counts groups times as much for the gradient of the weight."""
    forward, both, torchs = counted(nn.Conv2d(8, 8, 3, padding=1, groups=8))
    assert forward == 2 * 8 * 9 * 36
    assert both == 2 * forward < torchs
