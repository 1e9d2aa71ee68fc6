"""Export of a grown model whose seeds are all fossilised as a plain `nn.Module`."""

from __future__ import annotations

from typing import Any

from torch import nn

from esper.errors import GrowthError
from esper.kasmina.model import MorphableModel
from esper.kasmina.model_copy import copy_model
from esper.kasmina.target_layers import WHOLE_HOST, first_tensor, layer_module, main_output, with_main_output
from esper.leyline import SeedStage


class GrownLayer(nn.Module):
    """A layer with its seeds, without hooks, alpha or records; other attributes are read from the layer."""

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
        """Add a seed's module; it reads the layer's output ("series") or input, and adds to the output."""
        self.grafts.append(body)
        self.placements.append(placement)
        self.gated.append(gate is not None)
        if gate is not None:
            self.gates.append(gate)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.layer(*args, **kwargs)
        h = main_output(output)
        assert h is not None, "a layer with seeds has a tensor to add to"
        x = first_tensor(args, kwargs)
        source = h if x is None else x
        gates = iter(self.gates)
        for body, placement, gated in zip(self.grafts, self.placements, self.gated, strict=True):
            delta = body(h if placement == "series" else source)
            h = h + (next(gates) * delta if gated else delta).to(h.dtype)
        return with_main_output(output, h)


def fold(model: MorphableModel) -> nn.Module:
    """Export a copy of the host with every fossilised seed built in; its outputs are bit-identical.

    Args:
        model: a grown model.

    Returns:
        The plain module; `model` is unchanged.

    Raises:
        GrowthError: a seed is alive and not fossilised.

    Example:
        >>> plain = fold(grown)  # doctest: +SKIP
    """
    return fold_with_names(model)[0]


def fold_with_names(model: MorphableModel) -> tuple[nn.Module, dict[str, str]]:
    """As `fold`, and also return where each parameter went.

    Args:
        model: a grown model.

    Returns:
        The plain module, and for each parameter name of `model` the name of its copy, by which state that is
        kept per parameter (an optimizer's) can be moved.

    Raises:
        GrowthError: a seed is alive and not fossilised.

    Example:
        >>> plain, names = fold_with_names(grown)  # doctest: +SKIP
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
    """Disable the fused path of transformer encoders around `layer`, which does not call their layers."""
    for name, module in host.named_modules():
        if name and layer != name and not layer.startswith(f"{name}."):
            continue
        if isinstance(module, nn.TransformerEncoderLayer):
            # the one condition of the fused path that depends on an attribute of the layer only
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
