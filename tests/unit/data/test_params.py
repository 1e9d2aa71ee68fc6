from __future__ import annotations

from typing import Any

import pytest

from esper.data.params import (
    Augmentation,
    FileParams,
    FolderParams,
    NoParams,
    Params,
    SyntheticParams,
    read_params,
    size_of,
)
from esper.errors import DataError


@pytest.mark.parametrize(
    ("defaults", "given", "message"),
    [
        (
            Augmentation(),
            {"crop_paddin": 2},
            "augmentation_params.crop_paddin is unknown; did you mean 'crop_padding'",
        ),
        (Augmentation(), {"crop_padding": -1}, "crop_padding is -1; it must be a whole number of at least 0"),
        (Augmentation(), {"crop_padding": 1.5}, "must be a whole number"),
        (Augmentation(), {"crop_padding": True}, "must be a whole number"),
        (
            Augmentation(),
            {"horizontal_flip": 1.5},
            "horizontal_flip is 1.5; it must be a number between 0 and 1",
        ),
        (Augmentation(), {"horizontal_flip": float("nan")}, "between 0 and 1"),
        (Augmentation(), {"cutout": "big"}, "cutout is 'big'"),
        (SyntheticParams(), {"num_classes": 1}, "dataset_params.num_classes is 1; .* at least 2"),
        (SyntheticParams(), {"samples": 5}, "samples is 5; .* at least 10"),
        (SyntheticParams(), {"image_size": [8]}, r"image_size is \[8\]; it must be pixels a side"),
        (SyntheticParams(), {"image_size": 0}, "image_size is 0"),
        (FolderParams(), {"channels": 4}, r"channels is 4; it must be 1 \(grey\) or 3 \(colour\)"),
        (FolderParams(), {"in_memory": "no"}, "in_memory is 'no'; it must be true, false or null"),
        (FileParams(), {"mirror": "file:///etc"}, "mirror is 'file:///etc'; it must be an http"),
        (NoParams(), {"size": 3}, "dataset_params.size is unknown; Known: none"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(
    defaults: Params, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_params(defaults, given)


def test_given_options_replace_the_defaults_of_their_dataset() -> None:
    read = read_params(Augmentation(crop_padding=4, horizontal_flip=0.5), {"horizontal_flip": 0, "cutout": 8})
    assert read == Augmentation(crop_padding=4, horizontal_flip=0, cutout=8)
    assert read.active and not Augmentation().active


def test_a_size_is_a_side_or_a_pair() -> None:
    assert size_of(8) == (8, 8)
    assert size_of(read_params(SyntheticParams(), {"image_size": [4, 6]}).image_size) == (4, 6)
