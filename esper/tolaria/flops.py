"""Training FLOPs: counted once a topology, times samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from esper.kasmina import MorphableModel


def count_flops(model: MorphableModel, probe: Callable[[], Tensor], samples: int) -> tuple[float, float]:
    """FLOPs of one sample: (forward, forward and backward), as `torch.utils.flop_counter` counts them.

    `probe` runs `samples` samples through the model and returns the loss; it is run in eval mode and no
    `.grad` and no buffer is touched.
    """
    was_training = model.training
    model.eval()
    try:
        counter = FlopCounterMode(display=False)
        with counter:
            loss = probe()
            forward = counter.get_total_flops()
            if loss.requires_grad:
                params = [p for p in model.parameters() if p.requires_grad]
                torch.autograd.grad(loss, params, allow_unused=True)
        return forward / samples, counter.get_total_flops() / samples
    finally:
        model.train(was_training)
