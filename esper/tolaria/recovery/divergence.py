"""Detects divergence from losses and gradient norms alone, never from the clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

# Steps before losses and norms are compared with their history; until then only NaN and Inf count.
WARMUP_STEPS = 16
# Steps whose median is the current level of the loss: single batches may be hard.
WINDOW_STEPS = 32
# Steps between two checks of that median.
TREND_STEPS = 8
# A gradient this many times longer than all in the history would outweigh them in the optimizer.
GRADIENT_FACTOR = 1e3
# In fp16 single overflows are normal and their steps are skipped; this many in succession are not.
OVERFLOWS = 32
# A loss that fell by this share of its base has learned something...
LEARNED_SHARE = 0.5
# ... and has collapsed when all but this share of the fall is lost again.
KEPT_SHARE = 0.1


class DivergenceDetector:
    """Compares each step's loss and gradient norm with the history.

    The base is the first loss or the median of the warm-up, whichever is larger. With `loss_factor` f, a
    step whose loss is above f times the base is an explosion, and so is a median over the window above twice
    the base. A median that returns to nearly the base after half of it had been learned is a collapse. If
    warm-up losses lie further above the base than the base itself, as those of single samples may, that
    distance is the measure. Losses that may be negative are measured by how far they have fallen.

    Args:
        loss_factor: see above; None checks only for values that are not finite.
        overflows: gradients may overflow now and then (fp16).
    """

    def __init__(self, loss_factor: float | None, *, overflows: bool = False) -> None:
        self.loss_factor = loss_factor
        self.overflows = overflows
        self.losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self.norms: deque[float] = deque(maxlen=WINDOW_STEPS)
        self.seen = 0
        self.base = 0.0
        self.worst = 0.0  # the greatest loss of the warm-up
        self.least = math.inf
        self.base_norm = 0.0
        self.skipped = 0

    def check(self, loss: float, norm: float | None) -> str:
        """Check a step's loss and gradient norm.

        Returns:
            What is wrong, as a clause; empty for a healthy step. Only healthy steps enter the history.
        """
        wrong = self._loss(loss) or self._norm(norm)
        if not wrong:
            self._remember(loss, norm)
            wrong = self._trend()
        return wrong

    @property
    def warm(self) -> bool:
        """Whether there is enough history to compare with."""
        return self.seen >= WARMUP_STEPS

    def _loss(self, loss: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not self.warm or self.loss_factor is None:
            return ""
        if loss - self.base > (self.loss_factor - 1.0) * self._span() > 0.0:
            return f"the loss has exploded: {loss:.4g}, where it began at {self.base:.4g}"
        return ""

    def _norm(self, norm: float | None) -> str:
        if norm is None:
            return ""
        if not math.isfinite(norm):
            return self._overflow(norm)
        self.skipped = 0
        if not self.warm or self.loss_factor is None:
            return ""
        limit = GRADIENT_FACTOR * max(self.base_norm, max(self.norms, default=0.0))
        if norm > limit > 0.0:
            usual = limit / GRADIENT_FACTOR
            return f"the gradient has exploded: its norm is {norm:.4g}, at most {usual:.4g} so far"
        return ""

    def _overflow(self, norm: float) -> str:
        if not self.overflows:
            return f"the gradient's norm is {norm}"
        self.skipped += 1
        return f"the gradient has overflowed {OVERFLOWS} times running" if self.skipped >= OVERFLOWS else ""

    def _trend(self) -> str:
        full = len(self.losses) == WINDOW_STEPS and self.seen % TREND_STEPS == 0
        if self.loss_factor is None or not full:
            return ""
        level, span = median(self.losses), self._span()
        if level - self.base > span > 0.0:
            return f"the loss has grown: {level:.4g} over {WINDOW_STEPS} steps, it began at {self.base:.4g}"
        way = self.base - self.least
        least_way = LEARNED_SHARE * max(abs(self.base), self.worst - self.base)
        if way > least_way > 0.0 and self.base - level <= KEPT_SHARE * way:
            return (
                f"what was learnt has collapsed: the loss is back at {level:.4g} over {WINDOW_STEPS} steps, "
                f"it had been {self.least:.4g}"
            )
        self.least = min(self.least, level)
        return ""

    def _span(self) -> float:
        """The unit of loss: the base, the loss's fall so far, or how far the warm-up lay above the base."""
        down = self.base - self.least if math.isfinite(self.least) else 0.0
        return max(abs(self.base), down, self.worst - self.base)

    def _remember(self, loss: float, norm: float | None) -> None:
        self.seen += 1
        self.losses.append(loss)
        if norm is not None and math.isfinite(norm):
            self.norms.append(norm)
            if self.seen <= WARMUP_STEPS:
                self.base_norm = max(self.base_norm, norm)
        if self.seen <= WARMUP_STEPS:
            self.worst = loss if self.seen == 1 else max(self.worst, loss)
        if self.seen == 1:
            self.base = loss
        elif self.seen == WARMUP_STEPS:
            self.base = max(self.base, median(self.losses))

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "seen": self.seen,
            "base": self.base,
            "worst": self.worst,
            "least": self.least if math.isfinite(self.least) else None,
            "base_norm": self.base_norm,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=WINDOW_STEPS)
        self.norms = deque(state["norms"], maxlen=WINDOW_STEPS)
        self.seen, self.base, self.skipped = state["seen"], state["base"], state["skipped"]
        self.least = math.inf if state["least"] is None else state["least"]
        self.base_norm = state["base_norm"]
        self.worst = state.get("worst", self.base)
