"""Values of optimiser state as JSON, with their tensors beside it.

None, bool, int, float and str stand for themselves; a list is a list of packed values. An object is a
tag: `{"tuple": [...]}`, `{"dict": {...}}` or `{"tensor": {"shape": [...], "on": "param" or a device type}}`,
whose value is found under its path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.errors import CheckpointError

# where a tensor belongs: the saved one and what it was on ("param": where its parameter is)
Placer = Callable[[Tensor, str], Tensor]


class EncodedJson(dict[str, Any]):
    """A table that holds nothing but JSON and was made for whoever gets it: nobody need look again."""


class Packer:
    """Packs values and gathers the tensors in them, or with `copy` copies of these."""

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self.tensors: dict[str, Tensor] = {}

    def pack(self, path: str, value: Any, home: torch.device) -> Any:
        """JSON for `value`; `home` is the device of the parameter it belongs to. Raises `CheckpointError`."""
        if isinstance(value, Tensor):
            return self._keep(path, value, home)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return self._pack_items(path, value, home)
        if isinstance(value, tuple):
            return {"tuple": self._pack_items(path, value, home)}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": {key: self.pack(f"{path}/{key}", item, home) for key, item in value.items()}}
        raise CheckpointError(f"{path} is a {type(value).__qualname__}, which cannot be saved: {value!r:.80}")

    def _pack_items(self, path: str, items: Sequence[Any], home: torch.device) -> list[Any]:
        return [self.pack(f"{path}/{i}", item, home) for i, item in enumerate(items)]

    def _keep(self, path: str, value: Tensor, home: torch.device) -> dict[str, Any]:
        if path in self.tensors:
            raise CheckpointError(f"two tensors of the optimiser would be saved as {path}")
        self.tensors[path] = value.detach().clone() if self._copy else value
        on = "param" if value.device == home else value.device.type
        return {"tensor": {"shape": list(value.shape), "on": on}}


class Unpacker:
    """Turns what a `Packer` made back into values, with copies of the tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def unpack(self, path: str, packed: Any, place: Placer) -> Any:
        """The value that was packed under `path`. Raises `CheckpointError`."""
        if isinstance(packed, list):
            return [self.unpack(f"{path}/{i}", item, place) for i, item in enumerate(packed)]
        if not isinstance(packed, dict):
            return packed
        match packed:
            case {"tuple": list(items), **rest} if not rest:
                return tuple(self.unpack(path, items, place))
            case {"dict": dict(entries), **rest} if not rest:
                return {key: self.unpack(f"{path}/{key}", item, place) for key, item in entries.items()}
            case {"tensor": {"shape": list(shape), "on": str(on)}, **rest} if not rest:
                return self._take(path, shape, on, place)
        raise CheckpointError(
            f"{path} was saved as an object of {sorted(packed)}, which this Esper does not know"
        )

    def check_all_used(self) -> None:
        """Raise `CheckpointError` for tensors that nothing refers to."""
        if left := sorted(self._tensors.keys() - self._used):
            raise CheckpointError(f"tensors that belong to no state of the optimiser: {', '.join(left[:5])}")

    def _take(self, path: str, shape: list[int], on: str, place: Placer) -> Tensor:
        tensor = self._tensors.get(path)
        if tensor is None:
            raise CheckpointError(f"the tensor {path} is missing from the saved state")
        if list(tensor.shape) != shape:
            raise CheckpointError(f"{path} has shape {list(tensor.shape)}; its entry says {shape}")
        self._used.add(path)
        return place(tensor, on)
