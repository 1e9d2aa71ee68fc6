"""Disjoint, stratified, seeded splits. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esper.errors import DataError
from esper.utils.device_and_rng import derive_seed

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Ascending indices into the labels that were split; `test` is empty where its share is 0."""

    train: Indices
    validation: Indices
    test: Indices


def split(labels: Indices, *, validation: float, test: float, seed: int) -> Split:
    """Split samples into three disjoint, stratified parts.

    Each class is distributed over the parts by their shares, to within about two samples; one sample of each
    class is kept for training as long as the training part is large enough.

    Args:
        labels: int64 class of each sample.
        validation: share of all samples; 0 for none. The size is rounded down, and at least 1 above 0.
        test: likewise.
        seed: seed of the split.

    Raises:
        DataError: no sample is left for training.
    """
    count = len(labels)
    # slightly more, so that a share of 0.29 takes 29 of 100 samples despite rounding errors
    sizes = [max(1, int(share * count + 1e-6)) if share > 0 else 0 for share in (test, validation)]
    if sum(sizes) >= count:
        raise DataError(
            f"{count} samples cannot be split: validation takes {sizes[1]} and test {sizes[0]}, "
            "which leaves none to train on"
        )
    order = _stratified_order(labels, np.random.default_rng(derive_seed(seed, "split")))
    cut = np.split(order, [sizes[0], sizes[0] + sizes[1]])
    return Split(train=np.sort(cut[2]), validation=np.sort(cut[1]), test=np.sort(cut[0]))


def _stratified_order(labels: Indices, rng: np.random.Generator) -> Indices:
    """Return all indices in an order in which every segment has each class in about its overall share.

    A sample's place is (rank within its class + the class's own offset) / size of the class; the offsets
    are spread evenly over the classes, so that they do not all round the same way.
    """
    shuffled = rng.permutation(len(labels))
    _, member_of, sizes = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    grouped = np.argsort(member_of, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[grouped] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    offset = (rng.permutation(len(sizes)) + 0.5) / len(sizes)
    position = (rank + offset[member_of]) / sizes[member_of]
    position[rank == sizes[member_of] - 1] = np.inf  # the last one of each class stays for training
    return shuffled[np.argsort(position, kind="stable")]
