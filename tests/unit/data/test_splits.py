from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.data.splits import Split, split
from esper.errors import DataError

labels_of = st.lists(st.integers(0, 7), min_size=12, max_size=300).map(
    lambda values: np.array(values, np.int64)
)
share = st.floats(0, 0.45)


def parts(cut: Split) -> list[np.ndarray]:
    return [cut.train, cut.validation, cut.test]


@given(labels_of, share, share, st.integers(0, 5))
def test_parts_are_disjoint_complete_and_of_the_asked_size(
    labels: np.ndarray, validation: float, test: float, seed: int
) -> None:
    cut = split(labels, validation=validation, test=test, seed=seed)
    together = np.concatenate(parts(cut))
    assert sorted(together) == list(range(len(labels)))
    for part, asked in ((cut.validation, validation), (cut.test, test)):
        assert len(part) == (max(1, int(asked * len(labels) + 1e-6)) if asked else 0)
        assert list(part) == sorted(part)


@given(st.lists(st.integers(4, 60), min_size=1, max_size=8), share, share, st.integers(0, 5))
def test_each_class_has_its_share_of_each_part(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    """Stratified, whatever the sizes of the classes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    cut = split(labels, validation=validation, test=test, seed=seed)
    for label, size in enumerate(sizes):
        for part in parts(cut):
            expected = size * len(part) / len(labels)
            assert abs(np.count_nonzero(labels[part] == label) - expected) <= 3


def test_equal_classes_are_split_equally() -> None:
    labels = np.tile(np.arange(10), 100)
    cut = split(labels, validation=0.1, test=0.2, seed=0)
    for part, size in ((cut.train, 70), (cut.validation, 10), (cut.test, 20)):
        assert set(np.bincount(labels[part])) == {size}


@given(st.integers(2, 30), st.integers(0, 5))
def test_classes_of_one_sample_stay_in_training(singles: int, seed: int) -> None:
    labels = np.concatenate([np.zeros(200, np.int64), np.arange(1, singles + 1)])
    cut = split(labels, validation=0.1, test=0.1, seed=seed)
    assert set(labels[cut.train]) == set(labels)


def test_many_classes_of_one_sample_are_split_at_random() -> None:
    """Labels that are really identifiers, or a regression: nothing to stratify by, nothing to crash on."""
    cuts = [split(np.arange(100), validation=0.2, test=0.2, seed=seed) for seed in (0, 1)]
    assert [len(part) for part in parts(cuts[0])] == [60, 20, 20]
    assert not np.array_equal(cuts[0].test, cuts[1].test)
    assert cuts[0].test.max() - cuts[0].test.min() > 30, "not a block of neighbours"


def test_the_seed_decides() -> None:
    labels = np.tile(np.arange(5), 40)
    one, same, other = (split(labels, validation=0.1, test=0.1, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.train, same.train) and np.array_equal(one.test, same.test)
    assert not np.array_equal(one.train, other.train)


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"2 samples cannot be split: validation takes 1 and test 1"):
        split(np.array([0, 1]), validation=0.1, test=0.1, seed=0)
