from __future__ import annotations

from typing import Any

import pytest

from esper.errors import ConfigError
from esper.models.arguments import check_image_size, choice, fraction, positive_int, positive_ints


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
def test_a_whole_number_is_at_least_one(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.model_params\.width is .*; it must be a whole number"):
        positive_int("width", value)


@pytest.mark.parametrize("value", [[], 3, "34", None])
def test_a_list_is_a_list(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"hidden is .*; it must be a list of whole numbers"):
        positive_ints("hidden", value)


def test_the_wrong_entry_of_a_list_is_named() -> None:
    with pytest.raises(ConfigError, match=r"hidden\[1\] is 0"):
        positive_ints("hidden", [4, 0])
    assert positive_ints("hidden", (4, 5)) == [4, 5]


@pytest.mark.parametrize("value", [1, -0.1, True, "0.5", float("nan")])
def test_a_share_is_below_one(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"dropout is .*; it must be at least 0 and below 1"):
        fraction("dropout", value)


def test_a_choice_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="activation is 'tanh'; it must be one of gelu, relu"):
        choice("activation", "tanh", ("gelu", "relu"))


def test_an_image_must_outlast_the_strides() -> None:
    check_image_size("resnet", (8, 8), 8)
    with pytest.raises(ConfigError, match=r"images of 9 x 7 pixels are too small for resnet.* at least 8"):
        check_image_size("resnet", (9, 7), 8)
