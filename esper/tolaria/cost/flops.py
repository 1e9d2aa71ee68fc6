"""Counts training FLOPs per sample; once per topology."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from esper.kasmina import MorphableModel
from esper.kasmina.model_buffers import preserve_buffers
from esper.kasmina.target_layers import probe_mode


def conv_backward_flops(
    grad_out: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    *others: Any,
    **_: Any,
) -> int:
    """Each gradient of a convolution costs as much as its forward: the same products, in another order.

    `others` are bias, stride, padding, dilation, transposed, output_padding, groups and output_mask, as of
    `aten.convolution_backward`.

    torch's formula (2.13) ignores groups in the gradient of the weight: for a depthwise convolution of C
    channels it counts C times as much.
    """
    transposed, output_mask = others[4], others[7]
    forward = conv_flop_count(list(x), list(weight), list(grad_out), transposed=transposed)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))


_MAPPING = {torch.ops.aten.convolution_backward: conv_backward_flops}


class _Untracked:
    """Replaces torch's module tracker: everything is counted for the whole model.

    The tracker registers hooks at the inputs of every module. With a parametrisation (weight_norm,
    spectral_norm, orthogonal) such an input is a parameter, and `torch.autograd.grad` raises a RuntimeError.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def flop_counter() -> FlopCounterMode:
    """A `FlopCounterMode` that counts grouped convolutions correctly and supports parametrised modules."""
    counter = FlopCounterMode(display=False, custom_mapping=_MAPPING)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    return counter


def count_flops(
    model: MorphableModel, probe: Callable[[], Tensor], samples: int, criterion: Any = None
) -> tuple[float, float]:
    """FLOPs of one sample: (forward, forward and backward), as `torch.utils.flop_counter` counts them.

    No `.grad` and no buffer is changed.

    Args:
        model: the growing model, run in eval mode.
        probe: runs `samples` samples through the model and returns the loss.
        samples: the number of samples.
        criterion: the loss; if it has parameters, their gradients are counted.
    """
    counter = flop_counter()
    with preserve_buffers(model), probe_mode(model), counter:
        loss = probe()
        forward = counter.get_total_flops()
        if loss.requires_grad:
            of_loss = criterion.parameters() if isinstance(criterion, nn.Module) else ()
            params = [p for p in (*model.parameters(), *of_loss) if p.requires_grad]
            torch.autograd.grad(loss, params, allow_unused=True)
    return forward / samples, counter.get_total_flops() / samples
