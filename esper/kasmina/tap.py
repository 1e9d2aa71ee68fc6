"""One recorded forward of the host and its gradient, from which an isolated seed learns."""

from __future__ import annotations

from torch import Tensor


class ActivationTap:
    """Records one forward at a layer: the seed's input and, after the backward pass, the output's gradient.

    The gradients of several backward passes (one per objective) are summed. Everything is copied, because the
    host may overwrite its activations in place.

    Args:
        source: input of the seed.
        h: output of the layer, which requires a gradient.
    """

    def __init__(self, source: Tensor, h: Tensor) -> None:
        self.source = source.detach().clone()
        self.h_rms = h.detach().float().square().mean().sqrt()
        self.gradient: Tensor | None = None
        h.register_hook(self._receive)

    def _receive(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().clone() if self.gradient is None else self.gradient + gradient
