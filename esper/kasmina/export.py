"""Folding: a grown model whose seeds are all fossilised becomes a plain one."""

from __future__ import annotations

from typing import Any

from torch import nn

from esper.errors import GrowthError
from esper.kasmina.model import MorphableModel
from esper.kasmina.model_copy import copy_model
from esper.kasmina.target_layers import WHOLE_HOST, first_tensor, layer_module, main_output, with_main_output
from esper.leyline import SeedStage


class GrownLayer(nn.Module):
    """A layer and what has grown on it: no hook, no alpha, no record; other attributes are the layer's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.grafts = nn.ModuleList()
        self.placements: list[str] = []
        self.gates = nn.ParameterList()
        self.gated: list[bool] = []
        for part in (self, self.grafts, self.gates):
            part.training = layer.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # a host may read its layers' attributes: in_features, weight.device, batch_first
            return getattr(super().__getattr__("layer"), name)

    def add(self, body: nn.Module, placement: str, gate: nn.Parameter | None) -> None:
        """Let `body` add to the layer's output; it reads that output ("series") or the layer's input."""
        self.grafts.append(body)
        self.placements.append(placement)
        self.gated.append(gate is not None)
        if gate is not None:
            self.gates.append(gate)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.layer(*args, **kwargs)
        h = main_output(output)
        assert h is not None, "a layer that bore seeds has a tensor to add to"
        x = first_tensor(args, kwargs)
        source = h if x is None else x
        gates = iter(self.gates)
        for body, placement, gated in zip(self.grafts, self.placements, self.gated, strict=True):
            delta = body(h if placement == "series" else source)
            h = h + (next(gates) * delta if gated else delta).to(h.dtype)
        return with_main_output(output, h)


def fold(model: MorphableModel) -> nn.Module:
    """A plain copy of the host with every fossilised seed built in; same outputs, bit for bit.

    Raises `GrowthError` while a seed is still on its way.
    """
    return fold_with_names(model)[0]


def fold_with_names(model: MorphableModel) -> tuple[nn.Module, dict[str, str]]:
    """The same, and for each parameter of the grown model the name of its copy in the plain one.

    With the names, whatever is kept by parameter (an optimiser's state) can follow the fold.
    """
    unfinished = [r for r in model.alive_records() if r.stage is not SeedStage.FOSSILIZED]
    if unfinished:
        names = ", ".join(f"{r.layer} seed {r.index} ({r.stage})" for r in unfinished)
        raise GrowthError(f"only fossilised seeds can be folded; still on their way: {names}")
    grown = copy_model(model)
    copies = list(grown.named_parameters())
    host = grown.host
    folded: dict[str, GrownLayer] = {}
    for record in grown.alive_records():
        layer = folded.setdefault(record.layer, GrownLayer(layer_module(host, record.layer)))
        seed = grown.seed_module(record)
        layer.add(seed.body, seed.placement, seed.gate)
        grown.records[record.layer][record.index] = record.cleared()
        grown.detach(record)
    for name in folded:
        _call_layers(host, name)
    for layer in folded.values():
        _replace(host, layer.layer, layer)
    plain = folded.get(WHOLE_HOST, host)
    places = {id(parameter): name for name, parameter in plain.named_parameters()}
    return plain, {name: places[id(parameter)] for name, parameter in copies}


def _replace(host: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` where `old` is, under each name that `old` has."""
    for parent in list(host.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                setattr(parent, name, new)


def _call_layers(host: nn.Module, layer: str) -> None:
    """Keep transformer encoders around `layer` from their fused path, which does not call their layers."""
    for name, module in host.named_modules():
        if name and layer != name and not layer.startswith(f"{name}."):
            continue
        if isinstance(module, nn.TransformerEncoderLayer):
            # the one condition of the fused path that only asks an attribute of the layer's own
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
