"""Checks of a dataset's options and files without reading an image, before a run folder is made. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from esper.config import DatasetConfig
from esper.data.catalogue import DATASETS, DEFAULT_AUGMENTATIONS, DIGITS, FILE_SETS, DataInfo, image_info
from esper.data.params import (
    Augmentation,
    FileParams,
    FolderParams,
    NoParams,
    Params,
    SyntheticParams,
    nearest,
    read_params,
    size_of,
)
from esper.errors import DataError


def inspect_data(config: DatasetConfig) -> DataInfo:
    """Check the options of a dataset, and the headers of its files if they are in place.

    Nothing is downloaded: for a set that must be downloaded only the options are checked. A custom dataset (a
    dotted name) is unknown before it is opened.

    Args:
        config: the dataset options.

    Returns:
        What a model must fit.

    Raises:
        DataError: with one line for each problem.

    Example:
        >>> inspect_data(DatasetConfig(name="digits")).num_classes  # doctest: +SKIP
        10
    """
    if config.name not in DATASETS and "." not in config.name:
        hint = nearest(config.name, DATASETS)
        raise DataError(f"dataset.name is {config.name!r}, which is unknown{hint}, or a dotted target")
    problems = _range_problems(config)
    for check in (augmentation_of, dataset_params):
        problems += _problems_of(check, config)
    if problems:
        raise DataError("\n".join(problems))
    info = _info(config)
    problems = _fit_problems(config, info)
    if problems:
        raise DataError("\n".join(problems))
    return info


def is_custom(config: DatasetConfig) -> bool:
    """Whether the name is the dotted path of a custom dataset."""
    return config.name not in DATASETS


def data_root(config: DatasetConfig) -> Path:
    return Path(os.path.expanduser(config.data_root))  # noqa: PTH111 - raises for no unknown user


def augmentation_of(config: DatasetConfig) -> Augmentation:
    """Return the augmentation of training images: the default, overridden by `augmentation_params`."""
    if is_custom(config):
        return Augmentation()
    requested = read_params(DEFAULT_AUGMENTATIONS[config.name], config.augmentation_params)
    return requested if config.use_augmentation else Augmentation()


def dataset_params(config: DatasetConfig) -> Params:
    """Return the typed `dataset_params` of a named dataset; those of a custom one go to its factory."""
    if is_custom(config):
        return NoParams()
    if config.name in FILE_SETS:
        return read_params(FileParams(), config.dataset_params)
    by_name: dict[str, Params] = {
        "digits": NoParams(),
        "synthetic": SyntheticParams(),
        "image_folder": FolderParams(),
    }
    return read_params(by_name[config.name], config.dataset_params)


def _problems_of(check: Callable[[DatasetConfig], object], config: DatasetConfig) -> list[str]:
    try:
        check(config)
    except DataError as error:
        return [str(error)]
    return []


def _range_problems(config: DatasetConfig) -> list[str]:
    problems = []
    if config.batch_size < 1:
        problems.append(f"dataset.batch_size is {config.batch_size}; it must be at least 1")
    if config.num_workers < 0:
        problems.append(f"dataset.num_workers is {config.num_workers}; it must be 0 or more")
    for key in ("validation_split", "test_split"):
        share = getattr(config, key)
        if not 0 <= share < 1:
            problems.append(f"dataset.{key} is {share}; it must be a share of at least 0 and below 1")
    total = config.validation_split + config.test_split
    if total >= 1:
        problems.append(f"dataset.validation_split + dataset.test_split is {total:g}; it must be below 1")
    return problems


def _fit_problems(config: DatasetConfig, info: DataInfo) -> list[str]:
    """Problems that depend on the kind of dataset."""
    problems = []
    if config.name not in ("image_folder",) and not is_custom(config):
        if config.validation_split == 0:
            problems.append("dataset.validation_split is 0; validation needs a part of the training images")
        if config.test_split == 0 and not info.official_test:
            problems.append(f"dataset.test_split is 0, but {config.name} has no test set of its own")
    side = min(info.image_size) if info.image_size else 0
    augmentation = augmentation_of(config)
    for key in ("crop_padding", "cutout") if info.image_size else ():
        value = getattr(augmentation, key)
        if value >= side:
            problems.append(f"{augmentation.where}.{key} is {value}; the images have a side of {side} pixels")
    return problems


def _info(config: DatasetConfig) -> DataInfo:
    params = dataset_params(config)
    if isinstance(params, FileParams):
        from esper.data.files import check_in_place

        check_in_place(FILE_SETS[config.name], data_root(config), config.download)
        return FILE_SETS[config.name].info
    if isinstance(params, FolderParams):
        from esper.data.image_folder import folder_info

        return folder_info(data_root(config), params)
    if isinstance(params, SyntheticParams):
        size = size_of(params.image_size)
        return image_info(config.name, params.num_classes, params.channels, size, official_test=False)
    return DataInfo(config.name, None, None, None, None, False) if is_custom(config) else DIGITS
