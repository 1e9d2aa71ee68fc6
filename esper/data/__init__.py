"""Data: named image sets, image folders, custom datasets; splits; loaders that can start at any batch.

`DATASETS`, `DataInfo` and `inspect_data` load without torch; the other names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.data.catalogue import DATASETS, DataInfo
from esper.data.validation import inspect_data

if TYPE_CHECKING:
    from esper.data.custom import Datasets
    from esper.data.datamodule import DataBundle, build_data
    from esper.data.in_memory import InMemoryLoader, Loader
    from esper.data.map_style import MapStyleLoader

_LAZY = {
    "Datasets": "esper.data.custom",
    "DataBundle": "esper.data.datamodule",
    "build_data": "esper.data.datamodule",
    "MapStyleLoader": "esper.data.map_style",
    "InMemoryLoader": "esper.data.in_memory",
    "Loader": "esper.data.in_memory",
}

__all__ = [
    "DATASETS",
    "DataBundle",
    "DataInfo",
    "Datasets",
    "InMemoryLoader",
    "Loader",
    "MapStyleLoader",
    "build_data",
    "inspect_data",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
