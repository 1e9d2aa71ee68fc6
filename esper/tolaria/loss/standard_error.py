"""The standard error of a weighted mean, as a ratio of two sums."""

from __future__ import annotations

import math

from torch import Tensor


def standard_error(values: Tensor, weights: Tensor | None) -> float:
    """The standard error of R = sum(v) / sum(w) over n independent pairs (v, w); infinite for fewer than two.

    By linearisation (Cochran, 1977, section 6): sqrt(n / (n - 1) * sum((v - R w)^2)) / sum(w). Without
    `weights` all are 1, and it is the standard deviation by sqrt(n). A pair whose weight is 0 counts for
    nothing. Multiplying all weights by one number, the values with them, changes nothing.
    """
    if weights is None:
        n = values.numel()
        return values.std().item() / math.sqrt(n) if n > 1 else math.inf
    n = int((weights > 0).sum().item())
    if n < 2:
        return math.inf
    v, w = values.cpu().double(), weights.cpu().double()
    total = w.sum()
    residuals = v - v.sum() / total * w
    return ((n / (n - 1) * residuals.square().sum()).sqrt() / total).item()
