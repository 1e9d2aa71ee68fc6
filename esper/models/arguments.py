"""Checks of `model_params` that several architectures share; each raises `ConfigError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from esper.errors import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


def positive_int(key: str, value: Any) -> int:
    """Return `value` if it is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"model.model_params.{key} is {value!r}; it must be a whole number of at least 1")
    return value


def positive_ints(key: str, value: Any) -> list[int]:
    """Return `value` as a list if it is a sequence of one or more whole numbers of at least 1."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConfigError(f"model.model_params.{key} is {value!r}; it must be a list of whole numbers")
    return [positive_int(f"{key}[{index}]", item) for index, item in enumerate(value)]


def fraction(key: str, value: Any) -> float:
    """Return `value` if it is a number of at least 0 and below 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ConfigError(f"model.model_params.{key} is {value!r}; it must be at least 0 and below 1")
    return float(value)


def choice(key: str, value: Any, options: Sequence[str]) -> str:
    """Return `value` if it is one of `options`."""
    if value not in options:
        raise ConfigError(f"model.model_params.{key} is {value!r}; it must be one of {', '.join(options)}")
    return str(value)


def check_image_size(architecture: str, image_size: tuple[int, int], stride: int) -> None:
    """Check that at least one pixel of an image is left after all strides."""
    if min(image_size) < stride:
        raise ConfigError(
            f"images of {image_size[0]} x {image_size[1]} pixels are too small for {architecture}, whose "
            f"strides make {stride}: both sides must be at least {stride}"
        )
