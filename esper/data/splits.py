"""Disjoint, stratified, seeded splits. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esper.errors import DataError
from esper.utils.streams import derive_seed

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Ascending indices into the labels that were split; `test` is empty where none was asked for."""

    train: Indices
    validation: Indices
    test: Indices


def split(labels: Indices, *, validation: float, test: float, seed: int) -> Split:
    """Cut the samples in three; `validation` and `test` are shares of all of them, 0 for none.

    Sizes are the shares, rounded down, and at least 1 where the share is above 0. Each class is spread over
    the parts by its own share, to within about two samples; one of each is kept for training as long as
    the training part has room. Raises `DataError` where nothing is left to train on.
    """
    count = len(labels)
    # the least bit more, so that a share of 0.29 takes 29 of 100 samples
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
    """All indices in an order of which every stretch has each class in about its overall share.

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
