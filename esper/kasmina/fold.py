"""Folding: a grown model whose seeds are all fossilised becomes a plain one (spec K6)."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from esper.errors import GrowthError
from esper.kasmina.model import MorphableModel
from esper.kasmina.sites import first_tensor, main_output, with_main_output
from esper.leyline import SeedStage


class GrownLayer(nn.Module):
    """A layer and what has grown on it: no hook, no alpha, no record."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.grafts = nn.ModuleList()
        self.placements: list[str] = []
        self.gates = nn.ParameterList()
        self.gated: list[bool] = []

    def add(self, body: nn.Module, placement: str, gate: Tensor | None) -> None:
        """Let `body` add to the layer's output; it reads that output ("series") or the layer's input."""
        self.grafts.append(body)
        self.placements.append(placement)
        self.gated.append(gate is not None)
        if gate is not None:
            self.gates.append(nn.Parameter(gate.detach().clone()))

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
    unfinished = [r for r in model.living() if r.stage is not SeedStage.FOSSILIZED]
    if unfinished:
        names = ", ".join(f"{r.layer} seed {r.index} ({r.stage})" for r in unfinished)
        raise GrowthError(f"only fossilised seeds can be folded; still on their way: {names}")
    grown = copy.deepcopy(model)
    host = grown.host
    # deepest first: a container that bears seeds is replaced after the layers inside it
    layers = sorted({r.layer for r in grown.living()}, key=lambda name: -name.count("."))
    for layer in layers:
        records = [r for r in grown.records[layer] if r.alive]
        folded = GrownLayer(host.get_submodule(layer))
        for record in records:
            seed = grown.seed_module(record)
            folded.add(seed.body, seed.placement, seed.gate)
            grown.uproot(record)
        host.set_submodule(layer, folded)
    return host
