"""Grown topologies as starting points: attached before step 0, with random output layers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from esper.kasmina import MorphableModel
from esper.kasmina.record import SeedRecord
from esper.leyline import JOINED, SeedStage, SystemStatePacket
from esper.tamiyo.budget import Budget
from growth_arms.tasks import MOST_SEEDS

LEAST_BUDGET_USED = 0.5  # smaller ones would be easy to beat
_TRIES, _REPEATS = 100_000, 1_000


def final_topology(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The seeds of a summary that are part of the final model, as arguments of `attach`."""
    keys = ("layer", "seed", "blueprint", "placement", "options")
    return [{key: seed[key] for key in keys} for seed in seeds if SeedStage(seed["stage"]) in JOINED]


def attach(model: MorphableModel, topology: Sequence[Mapping[str, Any]]) -> None:
    """Plant and join all seeds, fossilised; `model` has seen a batch.

    Output layers, which are zero in a new seed, are drawn again from torch's global generator: a start
    from zero is weaker, and would flatter growth.
    """
    for seed in topology:
        record = model.record(seed["layer"], seed["seed"])
        shape = model.site_shape(seed["layer"], seed["placement"])
        described = {
            "stage": SeedStage.FOSSILIZED.value,
            "blueprint": seed["blueprint"],
            "placement": seed["placement"],
            "options": dict(seed["options"]),
            "blend_mode": "additive",
            "layout": shape.layout,
            "in_shape": shape.in_shape,
            "out_shape": shape.out_shape,
        }
        grown = SeedRecord.from_json(record.to_json() | described)
        model.records[record.layer][record.index] = grown
        module = model.attach(grown)
        module.set_alpha(1.0)
        wake(module.body)


def wake(body: nn.Module) -> None:
    """Draw every layer that is silent (all of its weight zero) as its class initialises it."""
    for module in body.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and not weight.any():
            module.reset_parameters()  # type: ignore[operator]  # all of torch's layers with a weight have it
    silent = [name for name, p in body.named_parameters() if name.endswith("weight") and not p.any()]
    assert not silent, f"still silent: {', '.join(silent)}"


def swept(packet: SystemStatePacket, name: str, number: int, max_flops: int | None) -> list[dict[str, Any]]:
    """Topology `number` of the sweep `name`: a function of the two and the catalogue, none drawn twice.

    Raises `RuntimeError` where there seem to be no more.
    """
    seen: list[list[dict[str, Any]]] = []
    for n in range(number + 1):
        rng = random.Random(f"{name} {n}")
        tries = (draw(packet, rng, max_flops) for _ in range(_REPEATS))
        fresh = next((topology for topology in tries if topology not in seen), None)
        if fresh is None:
            raise RuntimeError(f"no further topology beside {len(seen)} was found in {_REPEATS} tries")
        seen.append(fresh)
    return seen[number]


def draw(packet: SystemStatePacket, rng: random.Random, max_flops: int | None) -> list[dict[str, Any]]:
    """A random topology of one to four seeds that uses at least half of the parameter budget.

    Layer, blueprint and size are drawn evenly, in that order, as the random policy draws them. `max_flops`
    bounds the sum over the seeds, for a forward of one sample.
    """
    for _ in range(_TRIES):
        budget = Budget(packet)
        allowed = budget.remaining_params
        topology, flops = _attempt(budget, rng)
        if budget.remaining_params <= (1 - LEAST_BUDGET_USED) * allowed and (
            max_flops is None or flops <= max_flops
        ):
            return topology
    raise RuntimeError(f"no topology within {max_flops} FLOPs was found in {_TRIES} tries")


def _attempt(budget: Budget, rng: random.Random) -> tuple[list[dict[str, Any]], int]:
    topology, flops = [], 0
    for _ in range(rng.randint(1, MOST_SEEDS)):
        offers = budget.offers(budget.remaining_params)
        if not offers:
            break
        layer = rng.choice(list(dict.fromkeys(site.layer for site, _ in offers)))
        here = [c for site, c in offers if site.layer == layer]
        blueprint = rng.choice(list(dict.fromkeys(c.blueprint for c in here)))
        chosen = rng.choice([c for c in here if c.blueprint == blueprint])
        flops += chosen.flops
        topology.append(
            {
                "layer": layer,
                "seed": budget.reserve(layer, chosen),
                "blueprint": chosen.blueprint,
                "placement": chosen.placement,
                "options": dict(chosen.options),
            }
        )
    return topology, flops
