"""Checks a saved topology against the tensors that were saved with it.

A topology is a few numbers, and each of them may request more memory than there is. So no module is built
from it before it is known to be no larger than the tensors in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.errors import GrowthError
from esper.kasmina.blueprints import SiteShape, get_blueprint
from esper.kasmina.record import SeedRecord

# JSON grows some twenty-fold when it is parsed
TOPOLOGY_LIMIT_BYTES = 6 << 20
# of one sample at one site
_SAMPLE_VALUES = 1 << 31
# small mismatches are left to torch, whose message is clearer
_SLACK_VALUES = 1 << 20
_SLACK_TENSORS = 1 << 10


def parse_topology(saved: Tensor) -> dict[str, Any]:
    """Return the topology in a tensor of bytes; raises `GrowthError` for other data."""
    if saved.dtype is not torch.uint8 or saved.dim() != 1 or saved.numel() > TOPOLOGY_LIMIT_BYTES:
        raise GrowthError(
            f"the saved topology is {saved.dtype} {tuple(saved.shape)}; expected at most "
            f"{TOPOLOGY_LIMIT_BYTES} bytes"
        )
    try:
        return dict(json.loads(saved.cpu().numpy().tobytes()))
    except (TypeError, ValueError, RecursionError) as error:
        raise GrowthError(f"the saved topology is no JSON object: {error}") from error


def check_sizes(topology: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Check that no seed would be larger than the tensors saved for it.

    Args:
        topology: the saved topology.
        tensors: the state dict that it came with.
        prefix: prefix of the model's names in the state dict.

    Raises:
        GrowthError: a seed is too large, or the topology is damaged.
    """
    try:
        records = [SeedRecord.from_json(data) for data in topology["seeds"]]
        for record in (record for record in records if record.alive):
            start = f"{prefix}seeds.{record.key}."
            own = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
            _check_seed(record, own)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, GrowthError):
            raise
        raise GrowthError(f"the saved topology is damaged: {type(error).__name__}: {error}") from error


def _check_seed(record: SeedRecord, saved: Mapping[str, Tensor]) -> None:
    shape = SiteShape(record.layout, record.in_shape, record.out_shape)
    blueprint = get_blueprint(record.blueprint)
    if max(math.prod(record.in_shape), math.prod(record.out_shape)) > _SAMPLE_VALUES:
        raise GrowthError(f"seed {record.key} is for samples of {record.in_shape} and {record.out_shape}")
    known = blueprint.make.__module__.startswith(f"{__package__}.blueprints.")
    if known:
        _check_options(record, saved)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.device("meta"),
        ):  # the same tensors, without their memory
            body = blueprint.make(shape, **record.options)
    except (RuntimeError, TypeError) as error:
        if known and isinstance(error, RuntimeError):
            raise GrowthError(f"seed {record.key} cannot be built: {error}") from error
        return  # unknown options are rejected later; user code may not support the meta device
    wanted, found = _values(body.state_dict()), _values(saved)
    if wanted > found + _SLACK_VALUES:
        raise GrowthError(f"seed {record.key} would have {wanted:,} values, but {found:,} were saved for it")


def _check_options(record: SeedRecord, saved: Mapping[str, Tensor]) -> None:
    """Built-in options are sizes and depths: none exceeds the number of values, or tensors, that it makes."""
    for name, value in record.options.items():
        limit = len(saved) + _SLACK_TENSORS if name == "depth" else _values(saved) + _SLACK_VALUES
        if type(value) is int and value > limit:
            raise GrowthError(f"seed {record.key} has {name} {value:,}; what was saved for it is smaller")


def _values(tensors: Mapping[str, Any]) -> int:
    return sum(tensor.numel() for tensor in tensors.values() if isinstance(tensor, Tensor))
