from __future__ import annotations

import pytest

from esper.config import DatasetConfig
from esper.data.notes import augmentation_notes, idle, origin_notes, split_notes


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({"name": "cifar10"}, []),
        ({"name": "cifar10", "use_augmentation": False}, []),
        (
            {"name": "cifar10", "use_augmentation": False, "augmentation_params": {"cutout": 4}},
            ["dataset.augmentation_params is idle: dataset.use_augmentation is false"],
        ),
        (
            {"name": "synthetic"},
            ["dataset.use_augmentation is idle: dataset.augmentation_params ask for none on synthetic"],
        ),
        (
            {"name": "a.B", "augmentation_params": {"cutout": 4}},
            [
                "dataset.use_augmentation and dataset.augmentation_params are idle: "
                "a.B transforms its own samples"
            ],
        ),
    ],
)
def test_augmentation_that_does_nothing_is_named(options: dict[str, object], notes: list[str]) -> None:
    assert augmentation_notes(DatasetConfig(**options)) == notes  # type: ignore[arg-type]


def test_splits_that_do_nothing_are_named() -> None:
    config = DatasetConfig(name="mnist")
    assert split_notes(config, {"train"}) == []
    assert split_notes(config, {"train", "test"}) == [
        "dataset.test_split is idle: mnist has a test set of its own"
    ]


def test_a_set_of_files_says_where_it_was_found() -> None:
    assert origin_notes(DatasetConfig(name="mnist"), "/d/mnist") == ["mnist is read from /d/mnist"]
    assert idle([], "no reason") == []
