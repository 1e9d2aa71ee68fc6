"""`build_data`: from the options of a dataset to its three loaders."""

from __future__ import annotations

from dataclasses import replace

import torch

from esper.config import DatasetConfig
from esper.data.assembly import DataBundle, DataModule
from esper.data.custom import DatasetFactory, Datasets, open_custom, open_datasets
from esper.data.datasets import Images, Source, load_digits, load_files, synthesize
from esper.data.image_folder import decode_all, fits_in_memory, list_folder
from esper.data.map_style import Collate
from esper.data.params import FileParams, FolderParams, SyntheticParams
from esper.data.validation import data_root, dataset_params, inspect_data, is_custom
from esper.errors import DataError
from esper.utils.device_and_rng import derive_seed

__all__ = ["DataBundle", "build_data"]


def build_data(
    config: DatasetConfig,
    *,
    seed: int,
    device: torch.device,
    dataset_factory: DatasetFactory | None = None,
    datasets: Datasets | None = None,
    collate: Collate | None = None,
) -> DataBundle:
    """Find, download, check, split and load a dataset.

    Batches of a named dataset are (float32 images (batch, channels, height, width), int64 classes (batch,))
    on `device`. The global generators are restored.

    Args:
        config: the dataset options.
        seed: seed of splits, order and augmentation.
        device: where batches are needed.
        dataset_factory: the class or function that a dotted `dataset.name` names; see
            `esper.data.custom.open_custom` for how it is called.
        datasets: dataset objects, which take the place of the named dataset.
        collate: makes a batch of a list of its samples.

    Returns:
        Loaders for training, validation and test.

    Raises:
        DataError: the data is missing, damaged, too small to split, or does not fit the options.

    Example:
        >>> data = build_data(DatasetConfig(), seed=0, device=torch.device("cpu"))  # doctest: +SKIP
    """
    if datasets is not None:
        config = replace(config, name=datasets.name)
    datamodule = DataModule(config, inspect_data(config), seed, device)
    if datasets is not None:
        opened = open_datasets(config, datasets, seed=derive_seed(seed, "open"))
        return datamodule.build_map_style(opened)
    if is_custom(config):
        return _custom(datamodule, dataset_factory, collate)
    params = dataset_params(config)
    if isinstance(params, FolderParams):
        return _folder(datamodule, params)
    source = _source(config)
    found = {"train": source.train} | ({"test": source.test} if source.test else {})
    return datamodule.build_in_memory(found, source.origin)


def _source(config: DatasetConfig) -> Source:
    params = dataset_params(config)
    if isinstance(params, FileParams):
        return load_files(config.name, data_root(config), params, download=config.download)
    return synthesize(params) if isinstance(params, SyntheticParams) else load_digits()


def _folder(datamodule: DataModule, params: FolderParams) -> DataBundle:
    root = data_root(datamodule.config)
    files = list_folder(root)
    if not fits_in_memory(sum(len(part.paths) for part in files.values()), params):
        return datamodule.build_from_files(files, params)
    threads = datamodule.config.num_workers
    found = {
        part: Images(decode_all(listed, params, threads), listed.labels) for part, listed in files.items()
    }
    return datamodule.build_in_memory(found, str(root))


def _custom(
    datamodule: DataModule, dataset_factory: DatasetFactory | None, collate: Collate | None
) -> DataBundle:
    name = datamodule.config.name
    if dataset_factory is None:
        raise DataError(f"dataset.name is {name!r}; what it names must be passed as `dataset_factory`")
    seed = derive_seed(datamodule.seed, "open")
    return datamodule.build_map_style(
        open_custom(datamodule.config, dataset_factory, collate=collate, seed=seed)
    )
