"""Sentences for the start-up log: which options have no effect on this data, split or device."""

from __future__ import annotations

from collections.abc import Container, Sequence

from esper.config import DatasetConfig
from esper.data.catalogue import FILE_SETS
from esper.data.validation import augmentation_of, is_custom


def origin_notes(config: DatasetConfig, origin: str) -> list[str]:
    """Return where the data was found, and which options had no effect on that."""
    if config.name in FILE_SETS:
        return [f"{config.name} is read from {origin}"]
    if is_custom(config):
        return []  # reported when it was opened: it depends on its arguments
    if config.name == "image_folder":
        return idle(["download"], "image_folder reads what is in dataset.data_root")
    return idle(["data_root", "download"], f"{config.name} comes from {origin}")


def split_notes(config: DatasetConfig, found: Container[str]) -> list[str]:
    notes = []
    for part in ("validation", "test"):
        if part in found:
            notes += idle([f"{part}_split"], f"{config.name} has a {part} set of its own")
    return notes


def augmentation_notes(config: DatasetConfig) -> list[str]:
    given = ["augmentation_params"] if config.augmentation_params else []
    if not config.use_augmentation:
        return idle(given, "dataset.use_augmentation is false")
    if is_custom(config):
        return idle(["use_augmentation", *given], f"{config.name} transforms its own samples")
    if not augmentation_of(config).active:
        return idle(["use_augmentation"], f"dataset.augmentation_params ask for none on {config.name}")
    return []


def loading_notes(config: DatasetConfig, options: Sequence[str], reason: str) -> list[str]:
    """Return a sentence for the loading options that are set and have no effect."""
    return idle([option for option in options if getattr(config, option)], reason)


def idle(options: Sequence[str], reason: str) -> list[str]:
    """Return one sentence, or none where no option is idle."""
    if not options:
        return []
    names = " and ".join(f"dataset.{option}" for option in options)
    return [f"{names} {'is' if len(options) == 1 else 'are'} idle: {reason}"]
