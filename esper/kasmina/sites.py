"""Which layers of a host can bear seeds, and what flows through them (spec K1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import GrowthError

LayerTarget = str | type[nn.Module]


@dataclass(slots=True)
class SiteRecord:
    """What a probe saw at one layer; shapes are of one sample. `order` counts layers as they were reached."""

    layer: str
    order: int = -1
    layout: str = ""
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    problem: str = "no batch has passed through the model yet"

    @property
    def usable(self) -> bool:
        return not self.problem


def match_layers(model: nn.Module, targets: Sequence[LayerTarget]) -> list[str]:
    """Names of the layers that the targets select, in the order of `named_modules`.

    A target is a module class, the name of one (`Linear`, `nn.Linear`, `MyBlock`), or a pattern of
    module paths matched part by part (`layer?`, `blocks.*`, `**.conv1`).
    Raises `GrowthError` for a target that selects nothing.
    """
    if not targets:
        raise GrowthError("target_layers is empty: name at least one layer, layer type or path pattern")
    layers = dict(_layers(model))
    chosen: set[str] = set()
    for target in targets:
        found = {name for name, module in layers.items() if _selects(target, name, module)}
        if not found:
            raise GrowthError(_nothing_matched(target, layers))
        chosen |= found
    return [name for name in layers if name in chosen]


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    attention: list[str] = []
    for name, module in model.named_modules():
        if not name or any(name.startswith(f"{outer}.") for outer in attention):
            continue
        if isinstance(module, nn.MultiheadAttention):
            # its out_proj is never called as a module, so nothing grafted there would be reached
            attention.append(name)
        yield name, module


def _selects(target: LayerTarget, name: str, module: nn.Module) -> bool:
    if isinstance(target, type):
        return isinstance(module, target)
    known = getattr(nn, target.rpartition(".")[2], None)
    if isinstance(known, type) and issubclass(known, nn.Module):
        return isinstance(module, known)
    if target.rpartition(".")[2] in {cls.__name__ for cls in type(module).__mro__[:-2]}:
        return True
    return _path_matches(name.split("."), target.split("."))


def _path_matches(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_path_matches(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _path_matches(path[1:], pattern[1:])


def _nothing_matched(target: LayerTarget, layers: dict[str, nn.Module]) -> str:
    types = sorted({type(module).__name__ for module in layers.values()})
    label = target if isinstance(target, str) else target.__name__
    near = difflib.get_close_matches(label, [*layers, *types], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = list(layers)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"target layer {label!r} matches nothing.{hint} Layers: {shown}. Types: {', '.join(types)}."


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first floating-point tensor among a layer's inputs."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def main_output(output: Any) -> Tensor | None:
    """The tensor that a seed adds to: the output itself, or the first of a tuple or list."""
    if isinstance(output, list | tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def with_main_output(output: Any, value: Tensor) -> Any:
    """`output` with its main tensor replaced."""
    if isinstance(output, list | tuple):
        items = [value, *output[1:]]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return value


def record_site(record: SiteRecord, module: nn.Module, x: Tensor | None, output: Any, order: int) -> None:
    """Note in `record` what one forward of the layer showed."""
    h = main_output(output)
    if h is None or h.dim() < 2:
        record.problem = f"its output is {type(output).__name__}, not a batch of floating-point features"
        return
    record.problem = ""
    if record.order < 0:
        record.order = order
    record.layout = _layout(module, h)
    record.out_shape = tuple(h.shape[1:])
    record.in_shape = tuple(x.shape[1:]) if x is not None else ()


def _layout(module: nn.Module, h: Tensor) -> str:
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.MultiheadAttention) or h.dim() == 2:
        return "features"
    if h.dim() == 4:
        return "conv2d"
    kinds = {type(inner) for inner in module.modules()}
    return "conv1d" if nn.Conv1d in kinds and nn.Linear not in kinds else "features"


def observe(
    host: nn.Module, records: dict[str, SiteRecord], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Run one batch through the host in eval mode, without gradients, and note every site's shapes."""
    seen: list[str] = []
    handles = []
    modules = dict(host.named_modules())
    for record in records.values():
        record.order, record.problem = -1, "the probe batch did not pass through it"

        def hook(module: nn.Module, a: Any, k: Any, output: Any, record: SiteRecord = record) -> None:
            seen.append(record.layer)
            record_site(record, module, first_tensor(a, k), output, len(seen) - 1)

        # prepended: a site that already bears seeds is seen before they add to it
        handles.append(modules[record.layer].register_forward_hook(hook, with_kwargs=True, prepend=True))
    training = {name: module.training for name, module in modules.items()}
    host.eval()
    try:
        with torch.no_grad():
            host(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for name, module in modules.items():
            module.training = training[name]
