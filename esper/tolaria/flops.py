"""Training FLOPs: counted once a topology, times samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from esper.kasmina import MorphableModel


def conv_backward_flops(
    grad_out: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
    *,
    out_shape: Any = None,
    **_: Any,
) -> int:
    """Either gradient of a convolution costs what its forward does: the same products, summed otherwise.

    torch's own formula (2.13) takes no account of groups in the gradient of the weight: for a depthwise
    convolution of C channels it counts C times as much.
    """
    forward = conv_flop_count(list(x), list(weight), list(grad_out), transposed=transposed)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))


_MAPPING = {torch.ops.aten.convolution_backward: conv_backward_flops}


def count_flops(
    model: MorphableModel, probe: Callable[[], Tensor], samples: int, loss: Any = None
) -> tuple[float, float]:
    """FLOPs of one sample: (forward, forward and backward), as `torch.utils.flop_counter` counts them.

    `probe` runs `samples` samples through the model and returns the loss; it is run in eval mode and no
    `.grad` and no buffer is touched. The gradients of a `loss` with parameters of its own count, too.
    """
    was_training = model.training
    model.eval()
    try:
        counter = FlopCounterMode(display=False, custom_mapping=_MAPPING)
        with counter:
            loss = probe()
            forward = counter.get_total_flops()
            if loss.requires_grad:
                more = loss.parameters() if isinstance(loss, nn.Module) else ()
                params = [p for p in (*model.parameters(), *more) if p.requires_grad]
                torch.autograd.grad(loss, params, allow_unused=True)
        return forward / samples, counter.get_total_flops() / samples
    finally:
        model.train(was_training)
