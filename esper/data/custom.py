"""Custom datasets: opened by a factory, inspected for labels, and tested on one sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from esper.config import DatasetConfig
from esper.data.catalogue import DataInfo
from esper.data.map_style import Collate, MapStyle, isolated_rng, seed_rng
from esper.data.params import nearest
from esper.errors import DataError

DatasetFactory = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Datasets:
    """Dataset objects, in place of a dataset that the configuration names.

    Args:
        train: the training set; a part that is None is split off it by `dataset.<part>_split`.
        validation: the validation set.
        test: the test set.

    Example:
        >>> Datasets(TensorDataset(torch.randn(8, 2), torch.arange(8))).name
        'torch.utils.data.dataset.TensorDataset'
    """

    train: MapStyle
    validation: MapStyle | None = None
    test: MapStyle | None = None

    @property
    def name(self) -> str:
        """The dotted name of the training set's class."""
        kind = type(self.train)
        return f"{kind.__module__}.{kind.__qualname__}".replace(".<locals>", "")


@dataclass(frozen=True, slots=True)
class CustomData:
    """An opened custom dataset.

    Args:
        train: the training set.
        validation, test: the separate sets, None where there is none.
        labels: int64 classes of the training samples; None where only reading all samples would show them.
        collate: makes a batch of a list of samples.
        info: what a model must fit.
        notes: sentences about options without effect.
    """

    train: MapStyle
    validation: MapStyle | None
    test: MapStyle | None
    labels: NDArray[np.int64] | None
    collate: Collate
    info: DataInfo
    notes: list[str]


def open_custom(
    config: DatasetConfig, factory: DatasetFactory, *, collate: Collate | None, seed: int
) -> CustomData:
    """Open a custom dataset, and test it on one sample and its batch.

    The factory is a class or function that returns a map-style dataset (`__len__`, `__getitem__`) of samples
    (input, target). If it has a parameter `split`, it is called with "train" and with "test"; if it has
    `train`, with True and with False; the second result is the test set. Otherwise, or if `dataset_params`
    has that argument, it is called once and the test set is split off. The validation set is always split off
    the training set. `data_root` (or `root`) and `download` are passed if they are parameters. Integer
    classes in an attribute `targets` or `labels` make the splits stratified.

    Args:
        config: the dataset options; `dataset_params` are arguments of the factory.
        factory: the class or function.
        collate: makes a batch of a list of samples; None takes the dataset's method `collate`, or torch's
            `default_collate`.
        seed: seed of what the factory draws from global generators, which are restored.

    Returns:
        The dataset and what is known about it.

    Raises:
        DataError: an argument is unknown, the factory or the first sample fails, or the dataset is empty or
            not map-style.

    Example:
        >>> def two_moons(split, samples=100):  # dataset.name=my_module.two_moons
        ...     generator = torch.Generator().manual_seed(len(split))
        ...     return TensorDataset(torch.randn(samples, 2), torch.arange(samples) % 2)
    """
    accepted = inspect.signature(factory).parameters
    with isolated_rng():
        seed_rng(seed)
        given, idle = _arguments(config, accepted)
        parts = _part_arguments(config, accepted)
        train, *rest = [_open(config.name, factory, {**given, **part}) for part in parts]
        return _inspect(config.name, Datasets(train, test=rest[0] if rest else None), collate, idle)


def open_datasets(config: DatasetConfig, datasets: Datasets, *, seed: int) -> CustomData:
    """Test dataset objects on one sample and its batch.

    Args:
        config: the dataset options; `name` is what messages call the data.
        datasets: the objects.
        seed: seed of what a first sample draws from global generators, which are restored.

    Raises:
        DataError: a set is empty or not map-style, or its first sample fails.
    """
    given = {"train_data": datasets.train, "val_data": datasets.validation, "test_data": datasets.test}
    for argument, dataset in given.items():
        if isinstance(dataset, tuple) and all(isinstance(part, Tensor | np.ndarray) for part in dataset):
            raise DataError(
                f"{argument} is a tuple of {len(dataset)} arrays; expected samples: "
                "torch.utils.data.TensorDataset(x, y)"
            )
        if dataset is not None:
            _require_map_style(argument, dataset)
    if datasets.validation is datasets.train or datasets.test is datasets.train:
        raise DataError("val_data or test_data is the same object as train_data; expected other samples")
    idle = [
        f"dataset.{option} is idle: {config.name} was given as an object"
        for option in ("data_root", "download", "dataset_params")
    ]
    with isolated_rng():
        seed_rng(seed)
        return _inspect(config.name, datasets, None, idle)


def _inspect(name: str, datasets: Datasets, collate: Collate | None, idle: list[str]) -> CustomData:
    train, test = datasets.train, datasets.test
    collate = collate or getattr(train, "collate", None) or default_collate
    first, batch = _first_sample(name, train, collate)
    labels = _labels(train)
    info = replace(_info(name, train, labels, first, official_test=test is not None), dtype=_dtype(batch))
    return CustomData(train, datasets.validation, test, labels, collate, info, idle)


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
    return _require_map_style(f"{name}({shown})", dataset)


def _require_map_style(name: str, dataset: Any) -> MapStyle:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{name} is a {type(dataset).__name__}, which is not map-style: it needs __getitem__ and __len__"
        )
    found = cast("MapStyle", dataset)
    try:
        count = len(found)
    except Exception as error:
        raise DataError(
            f"{name} has no length ({type(error).__name__}: {error}); "
            "a run that was given its data as objects needs them again: TolariaTrainer(..., train_data=...)"
        ) from error
    if count == 0:
        raise DataError(f"{name} is empty")
    return found


def _first_sample(name: str, dataset: MapStyle, collate: Collate) -> tuple[Any, Any]:
    """Return the first sample, and the batch of it alone."""
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
