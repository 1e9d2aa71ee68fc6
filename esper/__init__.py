"""Esper: train a PyTorch network and grow it while it trains.

The names below are loaded when they are first used, so that a command line is answered without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.config import TolariaConfig
    from esper.kasmina import MorphableModel, wrap
    from esper.runs.load import load
    from esper.runs.service import TolariaService
    from esper.runs.trainer import TolariaTrainer
    from esper.tolaria.callbacks import Callback

__version__ = "0.1.0"

_HOMES = {
    "Callback": "esper.tolaria.callbacks",
    "MorphableModel": "esper.kasmina",
    "TolariaConfig": "esper.config",
    "TolariaService": "esper.runs.service",
    "TolariaTrainer": "esper.runs.trainer",
    "load": "esper.runs.load",
    "wrap": "esper.kasmina",
}

__all__ = [
    "Callback",
    "MorphableModel",
    "TolariaConfig",
    "TolariaService",
    "TolariaTrainer",
    "__version__",
    "load",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'esper' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
