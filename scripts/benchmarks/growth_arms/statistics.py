"""Paired tests over seeds, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

K = TypeVar("K")
_MOST_PAIRS = 20  # 2^20 signs are enumerated


def paired_t(a: Sequence[float], b: Sequence[float]) -> float:
    """p of the one-sided paired t-test that the mean of `a` is above that of `b`; nan under two pairs."""
    if len(a) < 2 or len(a) != len(b):
        return float("nan")
    difference = np.asarray(a) - np.asarray(b)
    if np.ptp(difference) == 0:
        return float(np.where(difference[0] > 0, 0.0, 1.0))
    return float(stats.ttest_rel(a, b, alternative="greater").pvalue)


def sign_flip(a: Sequence[float], b: Sequence[float]) -> float:
    """Exact p of the same question: the share of all signs of the differences whose mean is as high.

    nan without pairs, and beyond 20 of them, where there are too many signs to try.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    n = len(difference)
    if not 0 < n <= _MOST_PAIRS:
        return float("nan")
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    sums = (1 - 2 * bits) @ np.abs(difference)
    # sums of the same numbers in another order differ in their last bits
    return float(np.mean(sums >= difference.sum() - 1e-12))


def holm(ps: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down correction of a family of p values (Holm, 1979); nan ones are left out of it."""
    known = sorted((p, index) for index, p in enumerate(ps.values()) if p == p)
    corrected = list(ps.values())
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[index] = largest
    return dict(zip(ps, corrected, strict=True))


def percentile(value: float, others: Sequence[float]) -> float:
    """The share of `others` below `value`, ties counted half, in percent."""
    return float(stats.percentileofscore(others, value, kind="mean"))
