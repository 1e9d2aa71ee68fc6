"""Selection of a host's target layers, and the shapes of their inputs and outputs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import GrowthError

LayerTarget = str | type[nn.Module]

# The host itself as a layer: a seed in parallel to it maps the network's input to its output.
WHOLE_HOST = "."

# Modules whose three-dimensional output is (batch, channels, length).
_CHANNELS_FIRST = (nn.Conv1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm, nn.MaxPool1d, nn.AvgPool1d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(slots=True)
class SiteRecord:
    """Shapes at one layer, as recorded by a probe forward.

    Args:
        layer: name of the layer.
        order: position in the forward, from 0; -1 before it was reached.
        layout: layout of the output, see `SiteShape`.
        in_shape, out_shape: of one sample, without the batch.
        problem: why the layer cannot host seeds; empty where it can.
    """

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
    """Select target layers.

    Args:
        model: the host network.
        targets: each is a module class, the name of a class or of its base (`Linear`, `nn.Linear`,
            `MyBlock`), or a pattern of module paths that is matched part by part (`layer?`, `blocks.*`,
            `**.conv1`); `.` is the whole model.

    Returns:
        Names of the selected layers, in the order of `named_modules`.

    Raises:
        GrowthError: there are no targets, or one selects nothing.

    Example:
        >>> match_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)), ["nn.Linear"])
        ['0']
    """
    if not targets:
        raise GrowthError("target_layers is empty: name at least one layer, layer type or path pattern")
    layers = dict(_layers(model))
    chosen: set[str] = set()
    for target in targets:
        found = {name for name, module in layers.items() if _selects(target, name, module)}
        if not found:
            raise GrowthError(_no_match_message(target, layers, _scripted(model)))
        chosen |= found
    return [name for name in layers if name in chosen]


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    attention: list[str] = []
    for name, module in model.named_modules():
        # a scripted module takes no hooks, and its inner modules are not Python modules
        if isinstance(module, torch.jit.ScriptModule) or any(name.startswith(f"{a}.") for a in attention):
            continue
        if isinstance(module, nn.MultiheadAttention):
            # its out_proj is never called as a module, so a seed there would never run
            attention.append(name)
        yield name or WHOLE_HOST, module


def layer_module(host: nn.Module, layer: str) -> nn.Module:
    """Return the module of a layer by its name, `WHOLE_HOST` included."""
    return host if layer == WHOLE_HOST else host.get_submodule(layer)


def _selects(target: LayerTarget, name: str, module: nn.Module) -> bool:
    if WHOLE_HOST in (target, name):
        # only by its name: a class is searched for inside the model only
        return target == name
    if isinstance(target, type):
        return isinstance(module, target)
    package, _, class_name = target.rpartition(".")
    if package in ("nn", "torch.nn"):
        known = getattr(nn, class_name, None)
        return isinstance(known, type) and isinstance(module, known)
    if class_name in {cls.__name__ for cls in type(module).__mro__}:
        return True
    return _path_matches(name.split("."), target.split("."))


def _path_matches(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_path_matches(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _path_matches(path[1:], pattern[1:])


def _scripted(model: nn.Module) -> list[str]:
    """Names of the scripted (or traced) modules, the outermost of each."""
    names = (n for n, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule))
    found: list[str] = []
    for name in names:
        if not any(not outer or name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def _no_match_message(target: LayerTarget, layers: dict[str, nn.Module], scripted: Sequence[str]) -> str:
    layers = {name: module for name, module in layers.items() if name != WHOLE_HOST}
    types = sorted({type(module).__name__ for module in layers.values()})
    label = target if isinstance(target, str) else target.__name__
    near = difflib.get_close_matches(label, [*layers, *types], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = list(layers)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    found = f"target layer {label!r} matches nothing.{hint} Layers: {shown}. Types: {', '.join(types)}."
    if scripted:
        what = ", ".join(repr(name) if name else "the whole model" for name in scripted)
        found += (
            f" What is scripted ({what}) takes no hooks and cannot host seeds: name a layer outside of it, "
            "or pass the model before torch.jit.script or torch.jit.trace."
        )
    return found


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the first floating-point tensor among a layer's inputs."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def main_output(output: Any) -> Tensor | None:
    """Return the tensor that a seed adds to: the output itself, or the first of a tuple or list."""
    if isinstance(output, list | tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def with_main_output(output: Any, value: Tensor) -> Any:
    """Return `output` with its main tensor replaced by `value`."""
    if isinstance(output, list | tuple):
        items = [value, *output[1:]]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return value


def record_site(
    record: SiteRecord, module: nn.Module, x: Tensor | None, output: Any, order: int, batch: int | None = None
) -> None:
    """Write the shapes of one forward of the layer to `record`; `batch` is the size of the host's batch."""
    h = main_output(output)
    record.problem = _problem(module, h, output, batch)
    if h is None or record.problem:
        return
    if record.order < 0:
        record.order = order
    record.layout = layout_of(module, h)
    record.out_shape = tuple(h.shape[1:])
    record.in_shape = tuple(x.shape[1:]) if x is not None else ()


def _problem(module: nn.Module, h: Tensor | None, output: Any, batch: int | None) -> str:
    if h is None or h.dim() < 2:
        kind = f"a {type(output).__name__}" if h is None else f"a tensor {tuple(h.shape)}"
        return f"its output is {kind}, not a batch of floating-point features"
    if h.dim() > 4 and _contains(module, nn.Conv3d):
        return "seeds support convolutions in one and two dimensions, and this one has three"
    if h.dim() > 2 and _batch_is_second(module, h, batch):
        # a seed that treats the first axis as the batch would mix the samples
        return "its output has the batch on the second axis: build the model with batch_first=True"
    return ""


def _batch_is_second(module: nn.Module, h: Tensor, batch: int | None) -> bool:
    sequence_first = isinstance(module, nn.MultiheadAttention | nn.RNNBase) and not module.batch_first
    return sequence_first or (h.shape[0] != batch and h.shape[1] == batch)


def layout_of(module: nn.Module, h: Tensor) -> str:
    """Return the layout of a layer's output `h`, batch first: "features", "conv1d" or "conv2d"."""
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.MultiheadAttention) or h.dim() == 2:
        return "features"
    linear = _contains(module, nn.Linear)
    if h.dim() == 4:
        # windowed attention has its features last
        return "features" if linear and not _contains(module, *_CONVOLUTIONS) else "conv2d"
    return "conv1d" if h.dim() == 3 and _contains(module, *_CHANNELS_FIRST) and not linear else "features"


def _contains(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(inner, kinds) for inner in module.modules())


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    found = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())
    return next((len(value) for value in found), None)


@contextmanager
def probe_mode(model: nn.Module) -> Iterator[None]:
    """Context: eval mode, with every layer called as a module; restores each module's mode afterwards."""
    training = {module: module.training for module in model.modules()}
    # the fused path of a transformer encoder bypasses the layers with hooks
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training.items():
            module.training = mode


def record_sites(
    host: nn.Module, records: dict[str, SiteRecord], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Run one batch through the host, without gradients, and record every site's shapes."""
    seen: list[str] = []
    handles = []
    batch = _batch_size(args, kwargs)
    for record in records.values():
        record.order, record.problem = -1, "the probe batch did not pass through it"

        def hook(module: nn.Module, a: Any, k: Any, output: Any, record: SiteRecord = record) -> None:
            seen.append(record.layer)
            record_site(record, module, first_tensor(a, k), output, len(seen) - 1, batch)

        layer = layer_module(host, record.layer)
        handles.append(layer.register_forward_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            host(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
