from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.datasets import write_cifar10, write_idx, write_image_folder
from helpers.server import serving
from torch.utils.data import TensorDataset

from esper.config import DatasetConfig
from esper.data import DataBundle, InMemoryLoader, Loader, MapStyleLoader, build_data
from esper.errors import DataError

CPU = torch.device("cpu")


def built(seed: int = 0, factory: Any = None, **options: Any) -> DataBundle:
    options.setdefault("num_workers", 0)
    return build_data(DatasetConfig(**options), seed=seed, device=CPU, dataset_factory=factory)


def rows(loader: Loader) -> set[bytes]:
    """Every sample's inputs as bytes."""
    return {row.numpy().tobytes() for inputs, _ in loader.batches(0) for row in inputs}


def sizes(data: DataBundle) -> list[int]:
    return [data.train.num_samples, data.validation.num_samples, data.test.num_samples]


def targets_of(loader: Loader) -> torch.Tensor:
    return torch.cat([targets for _, targets in loader.batches(0)])


def test_the_parts_are_disjoint_and_stratified() -> None:
    data = built(name="synthetic", use_augmentation=False, dataset_params={"samples": 400})
    assert sizes(data) == [320, 40, 40]
    train, validation, test = (rows(part) for part in (data.train, data.validation, data.test))
    assert len(train | validation | test) == 400
    for part, each in ((data.train, 32), (data.validation, 4), (data.test, 4)):
        assert set(torch.bincount(targets_of(part)).tolist()) == {each}


def test_an_official_test_set_is_the_test_set(tmp_path: Path) -> None:
    write_cifar10(tmp_path, per_file=30)
    data = built(name="cifar10", data_root=str(tmp_path), download=False, use_augmentation=False)
    assert sizes(data) == [135, 15, 30]
    assert "dataset.test_split is idle: cifar10 has a test set of its own" in data.notes
    assert f"cifar10 is read from {tmp_path / 'cifar-10-batches-bin'}" in data.notes
    assert targets_of(data.test).tolist() == [index % 10 for index in range(30)]


def test_only_training_images_are_augmented_and_all_normalised_alike() -> None:
    plain = built(name="synthetic", use_augmentation=False)
    augmented = built(name="synthetic", augmentation_params={"horizontal_flip": 1})
    assert rows(plain.validation) == rows(augmented.validation) and rows(plain.test) == rows(augmented.test)
    assert not rows(plain.train) & rows(augmented.train)
    inputs = torch.cat([inputs for inputs, _ in plain.train.batches(0)])
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_the_seed_decides_splits_order_and_augmentation() -> None:
    def first(seed: int) -> torch.Tensor:
        return next(iter(built(seed, name="digits").train.batches(0)))[0]

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_the_training_order_can_be_kept() -> None:
    data = built(name="synthetic", shuffle_train=False, dataset_params={"samples": 100, "num_classes": 2})
    orders = [[targets.tolist() for _, targets in data.train.batches(epoch)] for epoch in (0, 1)]
    assert orders[0] == orders[1]


def test_building_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    built(name="digits")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_idle_options_are_named() -> None:
    data = built(name="digits", num_workers=4)
    assert data.notes == [
        "dataset.data_root and dataset.download are idle: digits comes from scikit-learn",
        "dataset.num_workers and dataset.pin_memory are idle: digits lives on the device (cpu)",
    ]
    assert built(name="synthetic", pin_memory=False, use_augmentation=False).notes == [
        "dataset.data_root and dataset.download are idle: synthetic comes from its data_seed"
    ]


def test_a_set_is_fetched_where_allowed(tmp_path: Path) -> None:
    """A server that holds other files than the official ones is caught by the hash."""
    contents = {path.name: path.read_bytes() for path in write_idx(tmp_path / "made").iterdir()}
    with serving(contents) as server, pytest.raises(DataError, match="does not have the MD5 f68b3c2d"):
        built(name="mnist", data_root=str(tmp_path / "root"), dataset_params={"mirror": server.url})


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_folder_is_loaded_either_way(tmp_path: Path, in_memory: bool) -> None:
    """On the device or through a DataLoader, the same batches."""
    write_image_folder(tmp_path, per_class=10)
    params = {"image_size": 8, "in_memory": in_memory}
    data = built(name="image_folder", data_root=str(tmp_path), dataset_params=params, batch_size=5)
    assert isinstance(data.train, InMemoryLoader if in_memory else MapStyleLoader)
    assert sizes(data) == [24, 3, 3] and data.info.num_classes == 3
    assert "dataset.download is idle: image_folder reads what is in dataset.data_root" in data.notes
    whole = list(data.train.batches(2))
    inputs, targets = whole[2]
    assert inputs.shape == (5, 3, 8, 8) and inputs.dtype == torch.float32 and targets.dtype == torch.int64
    assert torch.equal(inputs, next(iter(data.train.batches(2, start=2)))[0])
    other = built(
        name="image_folder", data_root=str(tmp_path), batch_size=5, dataset_params={"image_size": 8}
    )
    assert torch.equal(inputs, list(other.train.batches(2))[2][0])


def test_an_image_folder_with_parts_is_not_split(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        write_image_folder(tmp_path / part, per_class=count)
    options = {"name": "image_folder", "data_root": str(tmp_path), "validation_split": 0.0, "test_split": 0.0}
    data = built(dataset_params={"image_size": 8}, augmentation_params={"crop_padding": 0}, **options)
    assert sizes(data) == [18, 6, 9]
    assert "dataset.validation_split is idle: image_folder has a validation set of its own" in data.notes


def tensors(count: int = 40) -> TensorDataset:
    return TensorDataset(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count) % 4)


def test_a_custom_dataset_is_split_and_batched() -> None:
    data = built(name="my.tensors", factory=tensors, batch_size=8)
    assert sizes(data) == [32, 4, 4] and data.info.num_classes == 4
    assert torch.bincount(targets_of(data.test)).tolist() == [1, 1, 1, 1]
    assert len(rows(data.train) | rows(data.validation) | rows(data.test)) == 40
    assert "dataset.use_augmentation is idle: my.tensors transforms its own samples" in data.notes
    assert "dataset.pin_memory is idle: the device is cpu, not cuda" in data.notes


def test_a_custom_dataset_without_classes_is_split_all_the_same() -> None:
    data = built(name="my.numbers", factory=lambda: [torch.tensor([float(n)]) for n in range(20)])
    assert sizes(data) == [16, 2, 2]
    assert any("my.numbers are not stratified" in note for note in data.notes)


def test_more_workers_than_cores_are_not_started() -> None:
    notes = built(name="my.tensors", factory=tensors, num_workers=1000).notes
    assert any(note.startswith("dataset.num_workers is 1000; ") for note in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "my.Data"}, "what it names must be passed as `dataset_factory`"),
        (
            {"name": "my.Data", "factory": tensors, "validation_split": 0.0},
            "my.Data has no validation set of its own",
        ),
        ({"name": "my.Data", "factory": lambda: tensors(2)}, "2 samples cannot be split"),
        ({"name": "digits", "batch_size": 0}, "dataset.batch_size is 0"),
    ],
)
def test_data_that_cannot_be_used_is_an_error_at_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        built(**options)
