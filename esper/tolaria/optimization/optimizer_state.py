"""Saves and loads an optimiser's state by parameter name, as tensors and JSON, bit for bit.

In the JSON, None, bool, int, float and str are unchanged, and a list is a list of encoded values. An object
is a tag: `{"tuple": [...]}`, `{"dict": {...}}` or `{"tensor": {"shape": [...], "on": ...}}`, whose value is
the tensor of the same path; `on` is "param" (the device of the parameter) or a device type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.errors import CheckpointError

# Moves a saved tensor to its device, given what it was on ("param" for the device of its parameter).
Placer = Callable[[Tensor, str], Tensor]


class EncodedJson(dict[str, Any]):
    """A dict that is known to contain only JSON and is not changed any more: no check or copy is needed."""


class Packer:
    """Encodes values as JSON and collects the tensors in them, or with `copy` copies of these."""

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self.tensors: dict[str, Tensor] = {}

    def pack(self, path: str, value: Any, param_device: torch.device) -> Any:
        """Encode a value of the optimiser's state.

        Args:
            path: the name under which a tensor is saved.
            value: a tensor, a scalar, or lists, tuples and dicts of them.
            param_device: the device of the parameter that the value belongs to.

        Raises:
            CheckpointError: the value is of another type.
        """
        if isinstance(value, Tensor):
            return self._keep(path, value, param_device)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return self._pack_items(path, value, param_device)
        if isinstance(value, tuple):
            return {"tuple": self._pack_items(path, value, param_device)}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {
                "dict": {key: self.pack(f"{path}/{key}", item, param_device) for key, item in value.items()}
            }
        raise CheckpointError(f"{path} is a {type(value).__qualname__}, which cannot be saved: {value!r:.80}")

    def _pack_items(self, path: str, items: Sequence[Any], param_device: torch.device) -> list[Any]:
        return [self.pack(f"{path}/{i}", item, param_device) for i, item in enumerate(items)]

    def _keep(self, path: str, value: Tensor, param_device: torch.device) -> dict[str, Any]:
        if path in self.tensors:
            raise CheckpointError(f"two tensors of the optimiser would be saved as {path}")
        self.tensors[path] = value.detach().clone() if self._copy else value
        on = "param" if value.device == param_device else value.device.type
        return {"tensor": {"shape": list(value.shape), "on": on}}


class Unpacker:
    """Decodes what a `Packer` has encoded, with copies of the tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def unpack(self, path: str, packed: Any, place: Placer) -> Any:
        """The value that was encoded under `path`. Raises `CheckpointError`."""
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
            f"{path} was saved as an object of {sorted(packed)}, which this version of Esper does not know"
        )

    def check_all_used(self) -> None:
        """Raise `CheckpointError` if there are tensors that were not decoded."""
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


NamedParams = Iterable[tuple[str, Tensor]]


def named_state(
    optimizer: Optimizer, named_params: NamedParams, *, copy: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimiser: tensors named `<parameter>/<key>`, and the rest as JSON.

    Args:
        optimizer: any torch optimiser.
        named_params: may include parameters that the optimiser does not hold.
        copy: without it the tensors are the optimiser's own, valid until its next step.

    Returns:
        The tensors, and the JSON; in it `groups` has the options of each group and, as `params`, the names of
        its parameters.

    Raises:
        CheckpointError: a parameter has no name, or a value cannot be saved.
    """
    names = _names(optimizer, named_params)
    extra = _extra_state_keys(optimizer)
    if extra or any(param not in names for param in optimizer.state):
        what = ", ".join(sorted(extra)) or "entries that belong to none of its parameters"
        raise CheckpointError(
            f"the state of {_class_name(optimizer)} cannot be saved by name: it also has {what}"
        )
    packer = Packer(copy=copy)
    meta = EncodedJson(
        {
            "class": _class_name(optimizer),
            "groups": [
                _pack_group(packer, i, group, names) for i, group in enumerate(optimizer.param_groups)
            ],
            "shapes": {name: list(param.shape) for param, name in names.items()},
            "state": {
                names[param]: {
                    key: packer.pack(f"{names[param]}/{key}", value, param.device)
                    for key, value in entries.items()
                }
                for param, entries in optimizer.state.items()
            },
        }
    )
    return packer.tensors, meta


def load_named_state(
    optimizer: Optimizer, named_params: NamedParams, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Load a state of `named_state`: the state, the options and the order of the groups.

    Groups are identified by their parameters.

    Raises:
        CheckpointError: the class of the optimiser, the names, shapes or groups of parameters differ, or
            tensors are missing or unused. The optimiser is then unchanged.
    """
    try:
        _load(optimizer, named_params, tensors, meta)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the saved state of {_class_name(optimizer)} is not whole: {error!r}"
        ) from error


def _load(
    optimizer: Optimizer, named_params: NamedParams, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    if meta["class"] != _class_name(optimizer):
        raise CheckpointError(
            f"the saved state is one of {meta['class']}; the optimiser is {_class_name(optimizer)}"
        )
    params = {name: param for param, name in _names(optimizer, named_params).items()}
    _check_params(params, meta["shapes"], meta["state"])
    groups = _match_groups(optimizer, params, meta["groups"])
    unpacker = Unpacker(tensors)
    options, state = [], {}
    for i, (group, saved) in enumerate(zip(groups, meta["groups"], strict=True)):
        options.append(_unpack_options(unpacker, i, group, saved))
        to_param_device = _on_device(saved)
        for name in saved["params"]:
            if name in meta["state"]:
                state[params[name]] = _unpack_entries(
                    unpacker, name, meta["state"][name], params[name], to_param_device
                )
    unpacker.check_all_used()
    # nothing below can fail, so that the state is loaded completely or not at all
    for group, chosen, saved in zip(groups, options, meta["groups"], strict=True):
        group.update(chosen)
        group["params"][:] = [params[name] for name in saved["params"]]
    optimizer.param_groups[:] = groups
    optimizer.state.clear()
    optimizer.state.update(state)


def _names(optimizer: Optimizer, named_params: NamedParams) -> dict[Tensor, str]:
    """The name of each parameter of the optimiser, in its order."""
    named: dict[Tensor, str] = {}
    for name, param in named_params:
        named.setdefault(param, name)
    held = [param for group in optimizer.param_groups for param in group["params"]]
    for param in held:
        if param not in named:
            raise CheckpointError(
                f"{_class_name(optimizer)} holds a parameter of shape {tuple(param.shape)} without a name"
            )
    return {param: named[param] for param in held}


def _extra_state_keys(optimizer: Optimizer) -> set[str]:
    """The keys of an optimiser's state dict besides state and groups; computed only if there may be any."""
    plain = type(optimizer).state_dict is Optimizer.state_dict
    if plain and not optimizer._optimizer_state_dict_post_hooks:
        return set()
    return optimizer.state_dict().keys() - {"state", "param_groups"}


def _class_name(optimizer: Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _pack_group(
    packer: Packer, index: int, group: Mapping[str, Any], names: Mapping[Tensor, str]
) -> dict[str, Any]:
    device = next((param.device for param in group["params"]), torch.device("cpu"))
    packed = {
        key: packer.pack(f"groups/{index}/{key}", value, device)
        for key, value in group.items()
        if key != "params"
    }
    return {**packed, "params": [names[param] for param in group["params"]]}


def _unpack_options(
    unpacker: Unpacker, index: int, group: Mapping[str, Any], saved: Mapping[str, Any]
) -> dict[str, Any]:
    place = _placer(group["params"][0] if group["params"] else torch.empty(0), _on_device(saved))
    options = ((key, value) for key, value in saved.items() if key != "params")
    return {key: unpacker.unpack(f"groups/{index}/{key}", value, place) for key, value in options}


def _unpack_entries(
    unpacker: Unpacker, name: str, entries: Mapping[str, Any], param: Tensor, to_param_device: bool
) -> dict[str, Any]:
    return {
        key: unpacker.unpack(f"{name}/{key}", value, _placer(param, to_param_device or key != "step"))
        for key, value in entries.items()
    }


def _on_device(options: Mapping[str, Any]) -> bool:
    """Whether torch needs the step count, and a tensor learning rate, on the device of the parameters."""
    return bool(options.get("capturable") or options.get("fused"))


def _placer(param: Tensor, to_param_device: bool) -> Placer:
    """A function that moves a saved tensor to its device: the parameter's if it was there and should be."""

    def place(tensor: Tensor, on: str) -> Tensor:
        if on != "param" or not to_param_device:
            return tensor.to("cpu" if on == "param" else on, copy=True)
        if tensor.shape != param.shape:
            return tensor.to(param.device, copy=True)
        # in the memory format of the parameter, as the optimiser creates it
        return torch.empty_like(param, dtype=tensor.dtype, requires_grad=False).copy_(tensor)

    return place


def _check_params(
    params: Mapping[str, Tensor], shapes: Mapping[str, list[int]], state: Mapping[str, Any]
) -> None:
    if missing := sorted(shapes.keys() - params.keys()):
        raise CheckpointError(f"saved for parameters that the optimiser does not hold: {', '.join(missing)}")
    if without_param := sorted(state.keys() - params.keys()):
        raise CheckpointError(f"state saved for names that are no parameters: {', '.join(without_param)}")
    if unknown := sorted(params.keys() - shapes.keys()):
        raise CheckpointError(f"nothing saved for parameters that the optimiser holds: {', '.join(unknown)}")
    for name, param in params.items():
        if list(param.shape) != shapes[name]:
            raise CheckpointError(f"{name} has shape {list(param.shape)}; it was saved with {shapes[name]}")


def _match_groups(
    optimizer: Optimizer, params: Mapping[str, Tensor], saved: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The optimiser's groups in the saved order."""
    by_params = {frozenset(map(id, group["params"])): group for group in optimizer.param_groups}
    found = []
    for entry in saved:
        group = by_params.pop(frozenset(id(params[name]) for name in entry["params"]), None)
        if group is None or len(group["params"]) != len(entry["params"]):
            name = entry.get("name", ", ".join(entry["params"][:3]))
            raise CheckpointError(
                f"the optimiser has no group of exactly the parameters of saved group {name!r}"
            )
        found.append(group)
    if by_params:
        raise CheckpointError(f"the optimiser has {len(by_params)} groups that were not saved")
    return found
