"""What an isolated seed hears of the host: one forward, and the gradient that came back to it."""

from __future__ import annotations

from torch import Tensor


class ActivationTap:
    """One forward of the host as an isolated seed saw it: its input, and the gradient once it is known.

    A forward that is differentiated several times (once an objective) has the sum for its gradient.
    Everything is copied: the host may overwrite its activations in place later on.
    """

    def __init__(self, source: Tensor, h: Tensor) -> None:
        self.source = source.detach().clone()
        self.h_rms = h.detach().float().square().mean().sqrt()
        self.gradient: Tensor | None = None
        h.register_hook(self._receive)

    def _receive(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().clone() if self.gradient is None else self.gradient + gradient
