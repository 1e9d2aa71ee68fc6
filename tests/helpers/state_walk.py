"""Finds everything that a run holds by walking its attributes, independent of any list of owners."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from helpers.runs import Notes
from torch import Tensor

from esper.tolaria.checkpoint.buffers import BufferPool
from esper.tolaria.checkpoint.snapshots import Snapshot, Snapshots

# Objects of these modules are walked; of any other only the type is recorded.
OURS = ("esper.", "helpers.", "torch.optim", "torch.amp", "torch.nn", "omegaconf")
# ... except these: they hold copies of a state, or the records of tests.
CLOSED = (Snapshots, Snapshot, BufferPool, Notes)
NO_STATE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type, torch.device, torch.dtype)

StateTable = dict[str, Any]


def walk_state(root: Any) -> StateTable:
    """Every value that can be reached from `root`, by the shortest path to it."""
    found: StateTable = {}
    seen: dict[int, Any] = {id(root): root}
    todo: deque[tuple[str, Any]] = deque([("run", root)])
    while todo:
        path, value = todo.popleft()
        leaf = _leaf(value)
        if leaf is not None:
            found[path] = leaf
            continue
        children = list(_children(value))
        found[path] = f"{type(value).__name__}({len(children)})"
        for name, child in children:
            if _leaf(child) is not None:
                found[f"{path}.{name}"] = _leaf(child)
            elif id(child) not in seen:
                seen[id(child)] = child
                todo.append((f"{path}.{name}", child))
    return found


def differences(a: StateTable, b: StateTable) -> list[str]:
    """Paths whose values differ, or that only one of them has."""
    return sorted(path for path in a.keys() | b.keys() if a.get(path) != b.get(path))


def _leaf(value: Any) -> Any:
    """The recorded text for a value that is not walked; None for one that is."""
    if value is None or isinstance(value, str | bytes | int | float | Path | Enum):
        return repr(value)
    if isinstance(value, NO_STATE):
        return getattr(value, "__qualname__", repr(value))
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype}{tuple(value.shape)} {hashlib.sha256(raw).hexdigest()[:16]}"
    if isinstance(value, torch.Generator):
        return _leaf(value.get_state())
    if isinstance(value, random.Random):
        return hashlib.sha256(repr(value.getstate()).encode()).hexdigest()[:16]
    if isinstance(value, set | frozenset):
        return repr(sorted(map(repr, value)))
    if isinstance(value, tuple) and all(map(_leaf, value)):
        return repr(tuple(map(_leaf, value)))  # immutable, so it does not matter whether it is shared
    if isinstance(value, Mapping | list | tuple | deque) or _is_ours(value):
        return None
    return "<closed>" if isinstance(value, CLOSED) else f"<{type(value).__qualname__}>"


def _is_ours(value: Any) -> bool:
    return type(value).__module__.startswith(OURS) and not isinstance(value, CLOSED)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.optim.Optimizer):
        yield from _of_optimizer(value)
    elif isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            # hooks and parameters are keys by their identity, which differs between processes
            yield (key if isinstance(key, str) else f"#{number}"), item
    elif isinstance(value, list | tuple | deque):
        yield from ((str(number), item) for number, item in enumerate(value))
    else:
        yield from _attributes(value)


def _of_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    for g, group in enumerate(optimizer.param_groups):
        yield f"group{g}", {key: value for key, value in group.items() if key != "params"}
        for p, param in enumerate(group["params"]):
            yield f"group{g}.state{p}", dict(optimizer.state.get(param, {}))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    names = {*getattr(value, "__dict__", {})}
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= {slots} if isinstance(slots, str) else set(slots)
    for name in sorted(names - {"__dict__", "__weakref__"}):
        if hasattr(value, name):
            yield name, getattr(value, name)
