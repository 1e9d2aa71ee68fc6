"""Deep copies of a model, including models that hold computed tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from esper.errors import GrowthError

M = TypeVar("M", bound=nn.Module)
# how deep in lists and dictionaries of a module's attributes computed tensors are looked for
_DEPTH = 3


def copy_model(model: M) -> M:
    """Return a deep copy of the model.

    A module may keep a tensor that it has computed (the weight under `torch.nn.utils.weight_norm`, a last
    activation); `copy.deepcopy` rejects those, here the copy gets their values.

    Args:
        model: any module.

    Raises:
        GrowthError: the model cannot be copied; the message names the module.
    """
    try:
        return _copy(model)
    except Exception as error:
        raise GrowthError(_culprit(model, error)) from error


def _copy(model: M) -> M:
    memo = _computed(model)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    # torch copies a scripted module's parameters by an operation that autograd would record
    with torch.no_grad() if scripted else nullcontext():
        made = copy.deepcopy(model, memo)
    if scripted:
        for old, new in zip(model.parameters(), made.parameters(), strict=True):
            new.requires_grad_(old.requires_grad)
    for module in model.modules():
        for name in _slots(module):
            setattr(memo[id(module)], name, copy.deepcopy(getattr(module, name), memo))
    return made


def _slots(module: nn.Module) -> Iterator[str]:
    """Names of the values in `__slots__`, which `nn.Module` leaves out of its state."""
    for kind in type(module).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(module, name):
                yield name


def _computed(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy`, by id, with the tensors that it cannot copy."""
    found = [tensor for module in model.modules() for tensor in _tensors(vars(module), _DEPTH)]
    computed = {id(tensor): tensor.detach().clone() for tensor in found if not tensor.is_leaf}
    # an uninitialised buffer does not support deepcopy, unlike an uninitialised parameter
    lazy = [tensor for tensor in found if isinstance(tensor, UninitializedBuffer)]
    made: Any = UninitializedBuffer  # whose stub says otherwise
    return computed | {id(t): made(device=t.device, dtype=t.dtype) for t in lazy}


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in list(value.values()):
            yield from _tensors(item, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item, depth - 1)


def _culprit(model: nn.Module, error: Exception) -> str:
    """Return the message for a model that cannot be copied, with the innermost such module."""
    for name, module in reversed(list(model.named_modules())):
        try:
            _copy(module)
        except Exception as inner:  # noqa: BLE001 - a copy runs the user's code
            where = f"module {name!r} ({type(module).__name__})" if name else f"the {type(module).__name__}"
            return f"{where} cannot be copied: {_reason(inner)}; {_EXPECTED}"
    return f"the {type(model).__name__} cannot be copied: {_reason(error)}; {_EXPECTED}"


_EXPECTED = (
    "expected a model that copy.deepcopy can copy, or model.preserve_original=false "
    "(wrap(..., preserve_original=False)), which grows the model itself"
)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
