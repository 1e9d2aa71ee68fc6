"""Buffers of a model: preserved during a measurement, and resized to the shapes in a checkpoint.

A buffer may change its size while a model trains, be set to None, or be registered late. A new model's
buffers then differ from the saved ones. The topology therefore records how a host's buffers differ from those
that it was wrapped with, and loading first restores that layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.errors import GrowthError

# by name: shape and dtype, None for a buffer that is None, _LAZY for one that has no data yet
Layout = dict[str, Any]
_LAZY = "lazy"
_DELETED = "deleted"


@contextmanager
def preserve_buffers(model: nn.Module) -> Iterator[None]:
    """Context: buffers may change, be replaced, added or removed inside; all are restored afterwards.

    Buffers of lazy modules that have no data yet are not restored.
    """
    # the tables of scripted modules cannot change
    open_ones = (m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule))
    tables = [(module, dict(module._buffers)) for module in open_ones]
    # copied back whatever the version counter says: compiled code writes without counting
    copies = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    try:
        yield
    finally:
        for module, table in tables:
            _restore_table(module._buffers, table)
        for buffer, before in copies:
            _restore_values(buffer, before)


def _restore_table(now: dict[str, Tensor | None], before: dict[str, Tensor | None]) -> None:
    # compiled code is guarded by these tables: do not write to an unchanged one
    if list(now) == list(before) and all(now[name] is buffer for name, buffer in before.items()):
        return
    now.clear()
    now.update(before)


def _restore_values(buffer: Tensor, before: Tensor) -> None:
    with torch.no_grad():
        if buffer.shape == before.shape:
            buffer.copy_(before)
        else:
            buffer.data = before


def buffer_layout(host: nn.Module) -> Layout:
    """Return shape and dtype of every buffer that is part of the host's state dict."""
    return {
        f"{path}.{name}" if path else name: _entry(buffer)
        for path, module in host.named_modules()
        for name, buffer in module._buffers.items()
        if name not in module._non_persistent_buffers_set
    }


def _entry(buffer: Tensor | None) -> Any:
    if buffer is None:
        return None
    return _LAZY if is_lazy(buffer) else [list(buffer.shape), str(buffer.dtype)]


def _dtype(entry: Any) -> Any:
    return entry[1] if isinstance(entry, list) else None


def layout_changes(before: Layout, now: Layout) -> Layout:
    """Return the buffers that differ from before, deleted ones included.

    A lazy buffer that has data now counts as unchanged: torch itself loads it in the saved shape.
    """
    changed = {name: entry for name, entry in now.items() if before.get(name, _DELETED) not in (entry, _LAZY)}
    return changed | {name: _DELETED for name in before if name not in now}


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the part of a state dict whose names begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def fit_buffers(
    host: nn.Module, before: Layout, topology: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    """Give the host the buffers that its saved state dict has values for.

    No buffer gets larger than what was saved. Modules that the host lacks are left to `load_state_dict`,
    which names them.

    Args:
        host: the host network.
        before: the layout that the host was wrapped with.
        topology: the saved topology; where it is empty only shapes are fitted.
        saved: the saved state dict of the host.

    Raises:
        GrowthError: the topology is damaged.
    """
    changes = topology.get("buffers", {})
    if not isinstance(changes, Mapping):
        raise GrowthError(f"the saved topology is damaged: its buffers are a {type(changes).__name__}")
    if topology:
        _restore_registered(host, before, changes, saved)
    fit_shapes(host, saved)


def _restore_registered(
    host: nn.Module, before: Layout, changes: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    modules = dict(host.named_modules())
    for name in {**before, **buffer_layout(host), **changes}:
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if module is None:
            continue
        wanted = changes.get(name, before.get(name, _DELETED))
        if wanted == _DELETED:
            module._buffers.pop(leaf, None)
        elif wanted is None:
            _set(module, leaf, None)
        elif isinstance(value := saved.get(name), Tensor):
            # a buffer that has changed since is restored, including its dtype
            exact = name in changes or _dtype(before[name]) != _dtype(_entry(module._buffers.get(leaf)))
            _fit(module, leaf, value, exact=exact)


def fit_shapes(module: nn.Module, saved: Mapping[str, Any]) -> None:
    """Give every buffer of the module its saved shape."""
    for path, inner in module.named_modules():
        for leaf, buffer in list(inner._buffers.items()):
            value = saved.get(f"{path}.{leaf}" if path else leaf)
            if isinstance(value, Tensor) and buffer is not None and not is_lazy(buffer):
                _fit(inner, leaf, value, exact=False)


def _fit(module: nn.Module, leaf: str, saved: Tensor, *, exact: bool) -> None:
    """Replace a buffer by one that can hold `saved`; with `exact` also of its dtype."""
    present = module._buffers.get(leaf)
    if present is not None and is_lazy(present):
        return  # torch's own hook gives it the saved shape
    dtype = saved.dtype if exact or present is None else present.dtype
    if present is None or present.shape != saved.shape or present.dtype != dtype:
        _set(module, leaf, torch.empty_like(saved, dtype=dtype, device=_device(module, present)))


def _set(module: nn.Module, leaf: str, value: Tensor | None) -> None:
    if leaf in module._buffers:
        module._buffers[leaf] = value
    elif not hasattr(module, leaf):
        module.register_buffer(leaf, value)


def _device(module: nn.Module, present: Tensor | None) -> torch.device:
    if present is not None:
        return present.device
    near = next((p for p in (*module.parameters(), *module.buffers()) if not p.is_meta), None)
    return torch.device("cpu") if near is None else near.device
