"""All that a run remembers, apart from what the clock says, so that two of them can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from esper.leyline import CLOCK_METRICS

Tensors = Mapping[str, Mapping[str, Tensor]]


def remembered(tensors: Tensors, owners: Mapping[str, Any]) -> dict[str, Any]:
    """State by path, tensors as their bytes; what reads the clock is left out."""
    found: dict[str, Any] = {
        f"{owner}:{n}": raw(t) for owner, group in tensors.items() for n, t in group.items()
    }
    return found | timeless(owners)


def timeless(value: Mapping[str, Any]) -> dict[str, Any]:
    """What is in a nested mapping, by path, apart from what reads the clock."""
    return {path: item for path, item in _flat(value, "") if item != {}}


def raw(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return str(tensor.dtype), tuple(tensor.shape), tensor.detach().cpu().contiguous().numpy().tobytes()


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        return [(path, value)]
    named = ((key, item) for key, item in value.items() if key not in CLOCK_METRICS)
    return [found for key, item in named for found in _flat(item, f"{path}/{key}" if path else key)]
