"""Outcomes of a run's seeds: the evidence by which a policy rates blueprints and layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.leyline import CommandKind, Outcome, Refusal, SeedStage, SeedState
from esper.tamiyo.pruning import probability_above

# Refusals after which the same pair of layer and blueprint would be rejected again.
_FINAL = frozenset({Refusal.GATE, Refusal.INVALID})
_LAYER_WEIGHT = 0.25  # weight of a seed's outcome for other blueprints at its layer


@dataclass(slots=True)
class OutcomeStats:
    """Number of seeds with a known outcome, and the sum of their probabilities to help."""

    seeds: int = 0
    chance: float = 0.0

    def add(self, chance: float) -> None:
        self.seeds += 1
        self.chance += chance


@dataclass(slots=True)
class PendingSeed:
    """A seed without an outcome yet; `chance` is the probability that it helps, None before a measurement."""

    blueprint: str
    chance: float | None = None


@dataclass(slots=True)
class OutcomeHistory:
    """Outcomes by blueprint and by layer, and the pairs that must not be tried again.

    Args:
        pending: seeds without an outcome yet, by (layer, slot).
        blueprints: outcomes by blueprint.
        layers: outcomes by layer.
        excluded: (layer, blueprint) pairs that failed.
    """

    pending: dict[tuple[str, int], PendingSeed] = field(default_factory=dict)
    blueprints: dict[str, OutcomeStats] = field(default_factory=dict)
    layers: dict[str, OutcomeStats] = field(default_factory=dict)
    excluded: set[tuple[str, str]] = field(default_factory=set)

    def rating(self, blueprint: str, layer: str, prior: float, weight: float) -> float:
        """Return the expected probability that a seed helps.

        Args:
            blueprint: its blueprint.
            layer: its layer.
            prior: probability before any outcome.
            weight: weight of the prior, in seeds.
        """
        own = self.blueprints.get(blueprint, OutcomeStats())
        near = self.layers.get(layer, OutcomeStats())
        total = weight * prior + own.chance + _LAYER_WEIGHT * near.chance
        return total / (weight + own.seeds + _LAYER_WEIGHT * near.seeds)

    def observe(self, seeds: Iterable[SeedState]) -> None:
        """Update from the stages of all seeds; a pending seed that is missing has been culled."""
        seen = {(seed.layer, seed.seed_index): seed for seed in seeds}
        for key, seed in seen.items():
            if seed.stage in (SeedStage.CULLED, SeedStage.EMBARGOED):
                self._close(key, helped=False)
            elif seed.stage is SeedStage.FOSSILIZED:
                self._close(key, helped=True)
            else:
                entry = self.pending.setdefault(key, PendingSeed(seed.blueprint))
                if seed.impact is not None:
                    entry.chance = probability_above(seed.impact, 0.0)
        for key in [key for key in self.pending if key not in seen]:
            self._close(key, helped=False)

    def report(self, outcome: Outcome) -> None:
        """Update from the outcome of a command."""
        command, key = outcome.command, (outcome.command.layer, outcome.command.seed_index)
        if command.kind is CommandKind.GERMINATE:
            if outcome.applied:
                self.pending[key] = PendingSeed(command.blueprint)
            elif outcome.refusal in _FINAL:
                self.excluded.add((command.layer, command.blueprint))
        elif outcome.applied and command.kind in (CommandKind.CULL, CommandKind.FOSSILIZE):
            self._close(key, helped=command.kind is CommandKind.FOSSILIZE)

    def _close(self, key: tuple[str, int], *, helped: bool) -> None:
        entry = self.pending.pop(key, None)
        if entry is None:
            return
        if helped:
            chance = 1.0 if entry.chance is None else entry.chance
        else:
            # a seed culled for lack of evidence says less than one culled for harm
            chance = min(0.5, entry.chance or 0.0)
            self.excluded.add((key[0], entry.blueprint))
        self.blueprints.setdefault(entry.blueprint, OutcomeStats()).add(chance)
        self.layers.setdefault(key[0], OutcomeStats()).add(chance)

    def state_dict(self) -> dict[str, Any]:
        return {
            "growing": [[layer, index, g.blueprint, g.chance] for (layer, index), g in self.pending.items()],
            "blueprints": {name: [t.seeds, t.chance] for name, t in self.blueprints.items()},
            "layers": {name: [t.seeds, t.chance] for name, t in self.layers.items()},
            "barred": sorted([layer, blueprint] for layer, blueprint in self.excluded),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pending = {(row[0], row[1]): PendingSeed(row[2], row[3]) for row in state["growing"]}
        self.blueprints = {name: OutcomeStats(*row) for name, row in state["blueprints"].items()}
        self.layers = {name: OutcomeStats(*row) for name, row in state["layers"].items()}
        self.excluded = {(layer, blueprint) for layer, blueprint in state["barred"]}
