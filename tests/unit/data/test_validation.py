from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.datasets import write_cifar10, write_image_folder

from esper.config import DatasetConfig
from esper.data import DATASETS, DataInfo, inspect_data
from esper.errors import DataError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "digits"}, DataInfo("digits", 10, 1, (8, 8), (1, 8, 8), False)),
        ({"name": "cifar100"}, DataInfo("cifar100", 100, 3, (32, 32), (3, 32, 32), True)),
        ({"name": "mnist"}, DataInfo("mnist", 10, 1, (28, 28), (1, 28, 28), True)),
        (
            {"name": "synthetic", "dataset_params": {"num_classes": 3, "channels": 1, "image_size": [4, 6]}},
            DataInfo("synthetic", 3, 1, (4, 6), (1, 4, 6), False),
        ),
        ({"name": "my.Data"}, DataInfo("my.Data", None, None, None, None, False)),
    ],
)
def test_a_dataset_is_known_before_it_is_opened(
    tmp_path: Path, options: dict[str, Any], expected: DataInfo
) -> None:
    assert inspect_data(DatasetConfig(data_root=str(tmp_path), **options)) == expected
    assert list(tmp_path.iterdir()) == [], "nothing is fetched or written"


def test_inspection_loads_no_torch() -> None:
    code = (
        "import sys; from esper.data import DATASETS, inspect_data\n"
        "from esper.config import DatasetConfig\n"
        "for name in sorted(set(DATASETS) - {'image_folder'}): inspect_data(DatasetConfig(name=name))\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifr10"}, "dataset.name is 'cifr10', which is unknown; did you mean 'cifar10'"),
        ({"batch_size": 0}, "dataset.batch_size is 0; it must be at least 1"),
        ({"num_workers": -1}, "dataset.num_workers is -1; it must be 0 or more"),
        ({"validation_split": -0.1}, "dataset.validation_split is -0.1; it must be a share"),
        (
            {"validation_split": 0.6, "test_split": 0.4},
            r"validation_split \+ dataset.test_split is 1; it must be below 1",
        ),
        ({"validation_split": 0.0}, "dataset.validation_split is 0; validation needs a part"),
        ({"test_split": 0.0}, "dataset.test_split is 0, but digits has no test set of its own"),
        ({"dataset_params": {"size": 3}}, "dataset_params.size is unknown; Known: none"),
        (
            {"augmentation_params": {"crop": 3}},
            "augmentation_params.crop is unknown; did you mean 'crop_padding'",
        ),
        ({"augmentation_params": {"cutout": 8}}, "cutout is 8; the images have a side of 8 pixels"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        inspect_data(DatasetConfig(**{"name": "digits", **options}))


def test_wrong_options_are_reported_together() -> None:
    wrong = DatasetConfig(name="digits", batch_size=0, num_workers=-1, augmentation_params={"crop": 1})
    with pytest.raises(DataError) as caught:
        inspect_data(wrong)
    assert len(str(caught.value).splitlines()) == 3


def test_the_shares_of_a_set_with_a_test_set_of_its_own_may_leave_out_the_test(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    assert inspect_data(DatasetConfig(data_root=str(tmp_path), test_split=0.0)).official_test


def test_files_in_place_are_checked(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_2\.bin is 5 bytes long"):
        inspect_data(DatasetConfig(name="cifar10", data_root=str(tmp_path)))


def test_a_missing_set_is_an_error_only_where_it_may_not_be_fetched(tmp_path: Path) -> None:
    inspect_data(DatasetConfig(name="cifar10", data_root=str(tmp_path), download=True))
    with pytest.raises(DataError, match=f"cifar10 was not found in {tmp_path}"):
        inspect_data(DatasetConfig(name="cifar10", data_root=str(tmp_path), download=False))


def test_an_image_folder_tells_its_classes(tmp_path: Path) -> None:
    config = DatasetConfig(
        name="image_folder", data_root=str(write_image_folder(tmp_path)), dataset_params={"image_size": 16}
    )
    assert inspect_data(config) == DataInfo("image_folder", 3, 3, (16, 16), (3, 16, 16), False)


def test_every_name_is_known() -> None:
    assert sorted(DATASETS) == list(DATASETS)
