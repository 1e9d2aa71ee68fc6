"""The module of a seed, and the forward hook that adds its output to its layer's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from esper.kasmina.blending import join, make_gate
from esper.kasmina.tap import ActivationTap
from esper.kasmina.target_layers import first_tensor, main_output, with_main_output

# Positions in `Seed.stats`, which lives on the device so that a step never waits for it.
OBJECTIVE_FIRST, OBJECTIVE_NOW, GRAD_SUM, GRAD_SQUARES, GRAD_COUNT = range(5)


class Seed(nn.Module):
    """A blueprint's module with the weight `alpha` by which its output is added to its layer's.

    `alpha` is a buffer in [0, 1]: changing it neither waits for the device nor recompiles. `stats` stays
    float32 whatever the seed is cast to.

    Args:
        body: the blueprint's module.
        placement: "series" reads the layer's output, "parallel" its input.
        mode: blend mode, "additive" or "gated".
        layout: layout of the layer's output, see `SiteShape`.
        channels: channels of the layer's output.
        rng_seed: seed of the draws in isolated training.
    """

    alpha: Tensor
    stats: Tensor

    def __init__(
        self, body: nn.Module, *, placement: str, mode: str, layout: str, channels: int, rng_seed: int
    ) -> None:
        super().__init__()
        self.body = body
        self.placement = placement
        self.mode = mode
        self.gate = nn.Parameter(make_gate(layout, channels)) if mode == "gated" else None
        self.register_buffer("alpha", torch.zeros(()))
        self.register_buffer("stats", torch.zeros(5))
        # a separate generator while it is isolated: the host's draws must not shift
        self.rng_seed = rng_seed
        self.joined = False
        self.isolated = False
        self.taps: list[ActivationTap] = []

    def delta(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the seed's output before alpha; `x` is the layer's input, `h` its output."""
        out: Tensor = self.body(h if self.placement == "series" else x)
        return out

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the layer's output with the seed blended in; shape and dtype of `h`."""
        return join(self.mode, h, self.delta(x, h), self.alpha, self.gate)

    def set_alpha(self, value: float) -> None:
        """Set alpha, clamped to [0, 1], without waiting for the device."""
        self.alpha.fill_(min(max(value, 0.0), 1.0))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        stats = self.stats
        super()._apply(fn, recurse)
        # half precision cannot count past 256
        self.stats = stats.to(self.stats.device)
        return self

    @property
    def trainable(self) -> bool:
        return any(p.requires_grad for p in self.parameters())

    @property
    def params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def objective(self) -> float | None:
        """Return the smoothed isolated objective, None before isolated training. Waits for the device."""
        value = self.stats[OBJECTIVE_NOW].item()
        return value if self.stats[OBJECTIVE_FIRST].item() > 0 else None

    def record_gradients(self) -> None:
        """Add this step's gradient norm to the running statistics, on the device."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        if grads:
            norm = nn.utils.get_total_norm(grads).float()
            # fp16 overflows now and then; that step is skipped, and its norm would spoil the sums for good
            sound = torch.isfinite(norm)
            norm = torch.where(sound, norm, 0.0)
            self.stats[GRAD_SUM] += norm
            self.stats[GRAD_SQUARES] += norm * norm
            self.stats[GRAD_COUNT] += sound


class SeedHook:
    """The forward hook of one layer: joined seeds add to its output, isolated seeds record it."""

    def __init__(self, seeds: Sequence[Seed]) -> None:
        self.seeds = list(seeds)

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        h = main_output(output)
        if h is None:
            return None
        x = first_tensor(args, kwargs)
        source = h if x is None else x
        changed = False
        for seed in self.seeds:
            if seed.joined:
                h, changed = seed(source, h), True
            elif seed.isolated and seed.training and h.requires_grad:
                seed.taps.append(ActivationTap(source if seed.placement == "parallel" else h, h))
        # None leaves the output untouched, to the bit
        return with_main_output(output, h) if changed else None
