"""Records as strict JSON and as scalars.

JSON has no NaN and no infinity, so that a line with one is unreadable to most tools. Such a value is
written as null and named under `nonfinite`, e.g. `{"val_loss": null, "nonfinite": {"val_loss": "nan"}}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from typing import Any

from esper.loggers.base import Json


def to_strict_json(record: Mapping[str, Any]) -> dict[str, Json]:
    """Return `record` in JSON's own types; NaN and infinities become null and are named in `nonfinite`.

    Dataclasses become objects, sequences and sets lists, enum members their values, numbers of any library
    int or float, and everything else its text.
    """
    odd: dict[str, Json] = {}
    plain = {str(key): _plain(value, str(key), odd) for key, value in record.items()}
    return {**plain, "nonfinite": odd} if odd else plain


def to_json_line(record: Mapping[str, Any]) -> str:
    """Return `record` as one line of strict JSON, without the line's end."""
    return json.dumps(to_strict_json(record), allow_nan=False)


def scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return every number in `record` under its path, e.g. `seeds/blocks.1.0/alpha`.

    Truth values count as 0 and 1. Texts, nulls and lists are left out, except lists of seeds: mappings
    with `layer` and `seed`, which are keyed as `<layer>.<seed>`.
    """
    found: dict[str, float] = {}
    for key, value in record.items():
        path = f"{prefix}{key}"
        if isinstance(value, Real):
            found[path] = float(value)
        elif isinstance(value, Mapping):
            found |= scalars(value, f"{path}/")
        elif isinstance(value, list | tuple):
            found |= scalars(_by_seed(value), f"{path}/")
    return found


def seed_key(data: Mapping[str, Any]) -> str:
    """Return how a seed is called in the loggers, e.g. `blocks.1.0` for seed 0 of layer blocks.1."""
    return f"{data['layer']}.{data['seed']}"


def _by_seed(items: Iterable[Any]) -> dict[str, Any]:
    seeds = [item for item in items if isinstance(item, Mapping) and "layer" in item and "seed" in item]
    return {seed_key(item): {k: v for k, v in item.items() if k != "seed"} for item in seeds}


def _plain(value: Any, path: str, odd: dict[str, Json]) -> Json:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, path, odd)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Real):
        return _number(value, path, odd)
    return _compound(value, path, odd)


def _number(value: Real, path: str, odd: dict[str, Json]) -> Json:
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    if math.isfinite(number):
        return number
    odd[path] = str(number)
    return None


def _compound(value: Any, path: str, odd: dict[str, Json]) -> Json:
    if is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}", odd) for key, item in value.items()}
    if isinstance(value, Set):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{index}", odd) for index, item in enumerate(value)]
    return str(value)
