"""Packs the values in a state dict that are not tensors (extra state of modules) into tensors of bytes.

A safetensors file holds only tensors, and so does all code that copies or compares a model. What
`get_extra_state` returns is therefore packed: JSON with a tag for each container, and its tensors as
safetensors. Loading unpacks it to equal values of the same types.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from esper.errors import CheckpointError, EsperError
from esper.utils.safetensors import HEADER_LIMIT_BYTES, check_storable

SUFFIX = "_extra_state"

_MAGIC = b"esper packed state 1\n"
_LENGTH_BYTES = 8
_PLAIN = (type(None), bool, int, float, str)
_SEQUENCES: Mapping[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_TABLES: Mapping[str, type] = {"dict": dict, "ordered": OrderedDict}
_EXPECTED = (
    "None, numbers, strings, bytes, tensors, and lists, tuples, sets and dictionaries of them can be saved"
)


def pack_state(state: MutableMapping[str, Any], prefix: str = "") -> None:
    """Replace every value below `prefix` that is not a tensor by a tensor of bytes, in place.

    Args:
        state: a state dict.
        prefix: only names that begin with it are packed.

    Raises:
        CheckpointError: a value cannot be packed; the message names the module.
    """
    for key, value in list(state.items()):
        if key.startswith(prefix) and not isinstance(value, Tensor):
            state[key] = _pack(key.removeprefix(prefix), value)


def unpack_state(state: MutableMapping[str, Any], prefix: str = "") -> None:
    """Undo `pack_state`, in place.

    Args:
        state: a state dict.
        prefix: only names that begin with it are unpacked.

    Raises:
        CheckpointError: packed bytes are damaged.
    """
    for key, value in list(state.items()):
        if key.startswith(prefix) and isinstance(value, Tensor) and _is_packed(value):
            state[key] = _unpack(key.removeprefix(prefix), value)


def _pack(key: str, value: Any) -> Tensor:
    tensors: list[Tensor] = []
    try:
        text = json.dumps(_to_json(value, tensors)).encode()
        for number, tensor in enumerate(tensors):
            check_storable(f"tensor {number}", tensor)
        named = {str(i): t.detach().to("cpu", copy=True).contiguous() for i, t in enumerate(tensors)}
    except (TypeError, ValueError, RecursionError, EsperError) as error:
        module = key.removesuffix(SUFFIX).rstrip(".") or "the model itself"
        what = "extra state" if key.endswith(SUFFIX) else f"state {key!r}"
        raise CheckpointError(f"the {what} of module {module!r} cannot be saved: {error}") from error
    if len(text) > HEADER_LIMIT_BYTES:
        raise CheckpointError(
            f"{key!r} takes {len(text)} bytes of JSON; at most {HEADER_LIMIT_BYTES} are saved"
        )
    head = _MAGIC + len(text).to_bytes(_LENGTH_BYTES, "little")
    return torch.frombuffer(bytearray(head + text + safetensors.torch.save(named)), dtype=torch.uint8)


def _to_json(value: Any, tensors: list[Tensor]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_to_json(item, tensors) for item in value]
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind in _SEQUENCES.values():
        return {_tag(_SEQUENCES, kind): [_to_json(item, tensors) for item in value]}
    if kind in _TABLES.values():
        return {_tag(_TABLES, kind): [_to_json([k, v], tensors) for k, v in value.items()]}
    raise TypeError(f"it holds a {kind.__module__}.{kind.__qualname__}; {_EXPECTED}")


def _tag(known: Mapping[str, type], kind: type) -> str:
    return next(tag for tag, each in known.items() if each is kind)


def _is_packed(tensor: Tensor) -> bool:
    if tensor.dtype is not torch.uint8 or tensor.dim() != 1 or tensor.numel() < len(_MAGIC) + _LENGTH_BYTES:
        return False
    return bytes(tensor[: len(_MAGIC)].tolist()) == _MAGIC


def _unpack(key: str, packed: Tensor) -> Any:
    raw = packed.detach().cpu().contiguous().numpy().tobytes()
    start = len(_MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(raw[len(_MAGIC) : start], "little")
    if length > HEADER_LIMIT_BYTES:
        raise CheckpointError(
            f"{key!r} announces {length} bytes of JSON; at most {HEADER_LIMIT_BYTES} are read"
        )
    try:
        tensors = safetensors.torch.load(raw[start + length :])
        return _from_json(json.loads(raw[start : start + length]), tensors)
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{key!r} is damaged: {type(error).__name__}: {error}") from error


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = value.items()
    if tag == "tensor":
        return tensors[str(inner)]
    if tag == "bytes":
        return bytes.fromhex(inner)
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](_from_json(item, tensors) for item in inner)
    return _TABLES[tag]((_from_json(k, tensors), _from_json(v, tensors)) for k, v in inner)
