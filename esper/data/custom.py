"""A dataset of the user's own: opened, asked for its classes, and tried on one sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from esper.config.schema import DatasetConfig
from esper.data.catalogue import DataInfo
from esper.data.map_style import Collate, MapStyle, isolated_rng, seed_rng
from esper.data.params import nearest
from esper.errors import DataError

DatasetFactory = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class CustomData:
    """`labels` (int64) where the training set tells its classes without being read through, else None."""

    train: MapStyle
    test: MapStyle | None
    labels: NDArray[np.int64] | None
    collate: Collate
    info: DataInfo
    notes: list[str]


def open_custom(
    config: DatasetConfig, factory: DatasetFactory, *, collate: Collate | None, seed: int
) -> CustomData:
    """Call the factory with `dataset_params`, try one sample and its batch.

    A factory that takes `split` is called with "train" and with "test", one that takes `train` with True and
    with False, and the second is the test set, unless `dataset_params` gives that argument; any other is
    called once and split here. The validation split is always a part of the training set.
    `data_root` (or `root`) and `download` are passed where they are taken. Samples are made into
    batches by `collate`, else by the dataset's own method `collate`, else by torch's `default_collate`.
    Raises `DataError`.
    """
    accepted = inspect.signature(factory).parameters
    with isolated_rng():
        seed_rng(seed)
        given, idle = _arguments(config, accepted)
        parts = _part_arguments(config, accepted)
        train, *rest = [_open(config.name, factory, {**given, **part}) for part in parts]
        collate = collate or getattr(train, "collate", None) or default_collate
        first, batch = _first_sample(config.name, train, collate)
    labels = _labels(train)
    info = _info(config.name, train, labels, first, official_test=bool(rest))
    info = replace(info, dtype=_dtype(batch))
    return CustomData(train, rest[0] if rest else None, labels, collate, info, idle)


def _arguments(
    config: DatasetConfig, accepted: Mapping[str, inspect.Parameter]
) -> tuple[dict[str, Any], list[str]]:
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for key in config.dataset_params:
        if key not in accepted and not open_ended:
            hint = nearest(str(key), accepted)
            raise DataError(f"dataset.dataset_params.{key} is no argument of {config.name}{hint}")
    offered = {"data_root": config.data_root, "root": config.data_root, "download": config.download}
    passed = {key: value for key, value in offered.items() if key in accepted}
    reason = f"{config.name} has no argument for it"
    idle = [] if passed.keys() & {"data_root", "root"} else [f"dataset.data_root is idle: {reason}"]
    idle += [] if "download" in passed else [f"dataset.download is idle: {reason}"]
    return {**passed, **config.dataset_params}, idle


def _part_arguments(
    config: DatasetConfig, accepted: Mapping[str, inspect.Parameter]
) -> list[dict[str, str | bool]]:
    if "split" in accepted and "split" not in config.dataset_params:
        return [{"split": "train"}, {"split": "test"}]
    if "train" in accepted and "train" not in config.dataset_params:
        return [{"train": True}, {"train": False}]
    return [{}]


def _open(name: str, factory: DatasetFactory, arguments: dict[str, Any]) -> MapStyle:
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    try:
        dataset = factory(**arguments)
    except Exception as error:
        raise DataError(f"{name}({shown}) could not be opened: {type(error).__name__}: {error}") from error
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{name} made a {type(dataset).__name__}, which is not map-style: "
            "it needs __getitem__ and __len__"
        )
    found = cast("MapStyle", dataset)
    if len(found) == 0:
        raise DataError(f"{name}({shown}) is empty")
    return found


def _first_sample(name: str, dataset: MapStyle, collate: Collate) -> tuple[Any, Any]:
    """The first sample, and the batch of it alone."""
    try:
        first = dataset[0]
        return first, collate([first])
    except Exception as error:
        raise DataError(
            f"the first sample of {name} cannot be made into a batch: {type(error).__name__}: {error}; "
            "give tensors, arrays or numbers, or the dataset a method `collate` that takes a list of samples"
        ) from error


def _dtype(batch: Any) -> str | None:
    inputs = batch[0] if isinstance(batch, list | tuple) and batch else None
    return str(inputs.dtype).removeprefix("torch.") if isinstance(inputs, Tensor) else None


def _labels(dataset: MapStyle) -> NDArray[np.int64] | None:
    candidates = [getattr(dataset, name, None) for name in ("targets", "labels")]
    if isinstance(dataset, TensorDataset):
        candidates.append(dataset.tensors[-1])
    for candidate in candidates:
        if isinstance(candidate, list | tuple | np.ndarray | Tensor) and len(candidate) == len(dataset):
            array = _plain_array(candidate)
            if array is not None and array.ndim == 1 and array.dtype.kind in "iu":
                return array.astype(np.int64)
    return None


def _plain_array(values: Any) -> NDArray[Any] | None:
    try:
        return np.asarray(values)
    except (TypeError, ValueError):  # a ragged list, or tensors on another device: not one class a sample
        return None


def _info(
    name: str, dataset: MapStyle, labels: NDArray[np.int64] | None, first: Any, *, official_test: bool
) -> DataInfo:
    inputs = first[0] if isinstance(first, list | tuple) and first else None
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor | np.ndarray) else None
    channels, size = None, None
    if shape is not None and len(shape) == 3:
        channels, size = shape[0], (shape[1], shape[2])
    return DataInfo(name, _count_classes(dataset, labels), channels, size, shape, official_test)


def _count_classes(dataset: MapStyle, labels: NDArray[np.int64] | None) -> int | None:
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, list | tuple):
        return len(classes)
    return None if labels is None else int(labels.max()) + 1
