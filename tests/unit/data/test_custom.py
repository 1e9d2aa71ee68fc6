from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from esper.config import DatasetConfig
from esper.data.custom import CustomData, open_custom
from esper.errors import DataError


def opened(factory: Any, collate: Any = None, **options: Any) -> CustomData:
    return open_custom(DatasetConfig(name="my.Data", **options), factory, collate=collate, seed=0)


class Labelled:
    def __init__(self, count: int = 12, shape: tuple[int, ...] = (3, 4, 5)) -> None:
        self.targets = [index % 4 for index in range(count)]
        self.shape = shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(self.shape), self.targets[index]


class Parts(Labelled):
    def __init__(self, split: str, data_root: str = "", download: bool = False) -> None:
        super().__init__({"train": 12, "test": 4}[split])
        self.logged = (split, data_root, download)


class TorchvisionLike(Labelled):
    def __init__(self, root: str, train: bool = True, **rest: Any) -> None:
        super().__init__(12 if train else 4)
        self.logged = (root, train, rest)
        self.classes = list("abcdef")


def test_what_it_is_is_read_off_a_sample_and_its_targets() -> None:
    data = opened(Labelled, dataset_params={"count": 8})
    assert (data.info.num_classes, data.info.channels, data.info.image_size) == (4, 3, (4, 5))
    assert data.info.input_shape == (3, 4, 5) and not data.info.official_test
    assert data.labels is not None and list(data.labels) == [0, 1, 2, 3] * 2
    assert data.notes == [
        "dataset.data_root is idle: my.Data has no argument for it",
        "dataset.download is idle: my.Data has no argument for it",
    ]


def test_a_factory_that_takes_split_is_asked_for_both_parts() -> None:
    data = opened(Parts, data_root="/d", download=False)
    assert data.train.logged == ("train", "/d", False) and data.test.logged == ("test", "/d", False)  # type: ignore[attr-defined, union-attr]
    assert data.info.official_test and data.notes == []


def test_a_factory_that_takes_train_is_asked_for_both_parts() -> None:
    data = opened(TorchvisionLike, dataset_params={"root": "/mine", "transform": None})
    assert data.train.logged == ("/mine", True, {"transform": None})  # type: ignore[attr-defined]
    assert data.test is not None and len(data.test) == 4
    assert data.info.num_classes == 6, "as it says itself, though only four occur"


def test_a_part_that_the_user_named_is_split_here() -> None:
    data = opened(Parts, dataset_params={"split": "test"})
    assert data.test is None and len(data.train) == 4


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [
        (TensorDataset(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])), 3),
        (TensorDataset(torch.zeros(6, 2), torch.rand(6)), None),  # a regression
        (TensorDataset(torch.zeros(6, 2), torch.zeros(6, 3, dtype=torch.long)), None),  # many labels a sample
    ],
)
def test_classes_are_known_where_a_sample_has_one_whole_number(
    dataset: TensorDataset, classes: int | None
) -> None:
    data = opened(lambda: dataset)
    assert data.info.num_classes == classes and (data.labels is None) == (classes is None)
    assert data.info.input_shape == (2,) and data.info.channels is None


class Dicts:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": "a" * index, "y": index}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {"length": torch.tensor([len(sample["text"]) for sample in samples])}


def test_the_batch_is_made_by_the_caller_or_the_dataset() -> None:
    """Dict batches"""
    assert opened(Dicts).collate([{"text": "abc"}])["length"].tolist() == [3]
    assert opened(Dicts, collate=len).collate([1, 2]) == 2
    assert opened(Dicts).info.input_shape is None


def test_opening_leaves_the_global_generators_alone() -> None:

    class Drawing(Labelled):
        def __init__(self) -> None:
            super().__init__()
            self.noise = (torch.rand(1), np.random.rand())

    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again = opened(Drawing), opened(Drawing)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.train.noise == again.train.noise  # type: ignore[attr-defined]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def failing() -> None:
    raise FileNotFoundError("no such file: /x")


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (Labelled, {"cuont": 3}, "dataset_params.cuont is no argument of my.Data; did you mean 'count'"),
        (failing, {}, r"my\.Data\(\) could not be opened: FileNotFoundError: no such file: /x"),
        (
            Parts,
            {"split": "dev"},
            r"my\.Data\(data_root='./data', download=True, split='dev'\) could not be opened",
        ),
        (Stream, {}, "is a Stream, which is not map-style: it needs __getitem__ and __len__"),
        (Labelled, {"count": 0}, r"my\.Data\(count=0\) is empty"),
        (lambda: ["a", object()][1:], {}, "cannot be made into a batch: TypeError: .*; give tensors"),
    ],
)
def test_what_cannot_be_used_is_reported_at_the_start(
    factory: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(factory, dataset_params=options)
