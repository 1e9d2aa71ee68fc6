"""Builds the three loaders of a dataset: splits, normalisation, in-memory or DataLoader batches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.config import DatasetConfig
from esper.data.catalogue import DataInfo
from esper.data.custom import CustomData
from esper.data.datasets import Images
from esper.data.image_folder import FileList, FolderDataset, check_readable, decode_all
from esper.data.in_memory import InMemoryLoader, Loader, LoaderOptions
from esper.data.map_style import MapStyle, MapStyleLoader
from esper.data.notes import augmentation_notes, loading_notes, origin_notes, split_notes
from esper.data.params import Augmentation, FolderParams
from esper.data.splits import split
from esper.data.transforms import BatchTransform, Statistics, channel_statistics
from esper.data.validation import augmentation_of
from esper.errors import DataError
from esper.utils.device_and_rng import derive_seed

Labels = NDArray[np.int64]
PARTS = ("train", "validation", "test")
STATISTICS_SAMPLES = 2000  # images of a folder that is not kept in memory, for mean and deviation


@dataclass(frozen=True, slots=True)
class DataBundle:
    """The loaders of a dataset, none of them empty.

    Args:
        info: what a model must fit.
        train: the loader of the training set.
        validation: the loader of the validation set.
        test: the loader of the test set.
        notes: sentences for the log: where the data is, and which options have no effect.

    Example:
        >>> data = build_data(DatasetConfig(), seed=0, device=torch.device("cpu"))  # doctest: +SKIP
        >>> inputs, targets = next(data.train.batches(epoch=0))  # doctest: +SKIP
    """

    info: DataInfo
    train: Loader
    validation: Loader
    test: Loader
    notes: list[str]


@dataclass(frozen=True, slots=True)
class DataModule:
    """Builds a `DataBundle` from raw data.

    In its methods `found` maps "train", and each part for which the dataset has a separate set, to its data;
    the other parts are split off "train".

    Args:
        config: the dataset options.
        info: what a model must fit.
        seed: seed of splits, order and augmentation.
        device: where batches are needed.
    """

    config: DatasetConfig
    info: DataInfo
    seed: int
    device: torch.device

    def build_in_memory(self, found: Mapping[str, Images], origin: str) -> DataBundle:
        """Build loaders of images that are moved to the device once, as bytes."""
        cut = self._split_indices(found["train"].labels, found)
        tensors: dict[str, tuple[Tensor, Tensor]] = {}
        for part in PARTS:
            images = found["train"] if part in cut else found[part]
            chosen = cut.get(part, np.arange(len(images.labels)))
            # indexing copies: a loader shares no memory with another one or with a read-only buffer
            tensors[part] = torch.from_numpy(images.pixels[chosen]), torch.from_numpy(images.labels[chosen])
        transform = self._transforms(channel_statistics(tensors["train"][0]))
        loaders = [
            InMemoryLoader(*tensors[part], transform[part], self._loader_options(part), device=self.device)
            for part in PARTS
        ]
        idle = ["pin_memory"] if self.config.name == "image_folder" else ["num_workers", "pin_memory"]
        where = f"{self.config.name} lives on the device ({self.device})"
        notes = self._notes(found, origin) + loading_notes(self.config, idle, where)
        return DataBundle(self.info, loaders[0], loaders[1], loaders[2], notes)

    def build_from_files(self, files: Mapping[str, FileList], params: FolderParams) -> DataBundle:
        """Build loaders of images that are decoded when needed, and transformed on the device."""
        listed = files["train"]
        for each in files.values():
            check_readable(each, params, self.config.num_workers)
        cut = self._split_indices(listed.labels, files)
        rng = np.random.default_rng(derive_seed(self.seed, "statistics"))
        seen = rng.permutation(cut["train"])[:STATISTICS_SAMPLES]
        sample = FileList([listed.paths[index] for index in seen], listed.labels[seen])
        pixels = torch.from_numpy(decode_all(sample, params, self.config.num_workers))
        data: dict[str, MapStyle] = {
            part: FolderDataset(listed if part in cut else files[part], params) for part in PARTS
        }
        transform = self._transforms(channel_statistics(pixels))
        loaders = {
            part: self._host_loader(part, data[part], cut.get(part), transform=transform[part])
            for part in PARTS
        }
        return DataBundle(self.info, **loaders, notes=self._notes(files, "") + self._host_notes())

    def build_map_style(self, custom: CustomData) -> DataBundle:
        """Build loaders of a custom dataset; `collate` makes its batches."""
        sets = {"train": custom.train, "validation": custom.validation, "test": custom.test}
        found = {part: data for part, data in sets.items() if data is not None}
        notes, labels = list(custom.notes), custom.labels
        if labels is None:
            notes.append(
                f"the splits of {self.config.name} are not stratified: it has no `targets` or `labels` "
                "with a class for each sample"
            )
            labels = np.zeros(len(custom.train), np.int64)
        cut = self._split_indices(labels, found)
        loaders = {
            part: self._host_loader(
                part, custom.train if part in cut else found[part], cut.get(part), collate=custom.collate
            )
            for part in PARTS
        }
        return DataBundle(custom.info, **loaders, notes=notes + self._notes(found, "") + self._host_notes())

    def _host_loader(self, part: str, data: MapStyle, indices: Labels | None, **kind: Any) -> MapStyleLoader:
        chosen = np.arange(len(data)) if indices is None else indices
        return MapStyleLoader(
            data,
            torch.from_numpy(chosen),
            self._loader_options(part),
            device=self.device,
            **kind,
        )

    def _loader_options(self, part: str) -> LoaderOptions:
        return LoaderOptions(
            batch_size=self.config.batch_size,
            seed=derive_seed(self.seed, part),
            shuffle=part == "train" and self.config.shuffle_train,
            training=part == "train",
            num_workers=min(self.config.num_workers, _cores()),
            pin_memory=self.config.pin_memory,
        )

    def _split_indices(self, labels: Labels, found: Mapping[str, object]) -> dict[str, Labels]:
        """Return indices into the training set: for "train", and for each part without a separate set."""
        shares = {"validation": self.config.validation_split, "test": self.config.test_split}
        for part, share in shares.items():
            if part in found:
                shares[part] = 0.0
            elif share == 0:
                raise DataError(
                    f"dataset.{part}_split is 0, but {self.config.name} has no {part} set of its own; "
                    "give a share above 0"
                )
        cut = split(labels, validation=shares["validation"], test=shares["test"], seed=self.seed)
        parts = {"train": cut.train, "validation": cut.validation, "test": cut.test}
        return {part: indices for part, indices in parts.items() if part == "train" or part not in found}

    def _transforms(self, statistics: Statistics) -> dict[str, BatchTransform]:
        """Return transforms: all images are normalised by training statistics, training images augmented."""
        augmentations = {"train": augmentation_of(self.config)}
        seed = derive_seed(self.seed, "finish")
        return {
            part: BatchTransform(
                statistics, augmentations.get(part, Augmentation()), seed=seed, device=self.device
            )
            for part in PARTS
        }

    def _notes(self, found: Mapping[str, object], origin: str) -> list[str]:
        where = origin_notes(self.config, origin)
        return where + split_notes(self.config, found) + augmentation_notes(self.config)

    def _host_notes(self) -> list[str]:
        notes = []
        if self.config.num_workers > _cores():
            notes.append(f"dataset.num_workers is {self.config.num_workers}; {_cores()} are used, one a core")
        if self.device.type != "cuda":
            notes += loading_notes(self.config, ["pin_memory"], f"the device is {self.device}, not cuda")
        return notes


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
