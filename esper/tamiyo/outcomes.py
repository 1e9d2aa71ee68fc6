"""What became of the seeds of a run: the evidence that its own past gives a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.leyline import CommandKind, Outcome, Refusal, SeedStage, SeedState
from esper.tamiyo.pruning import chance_above

# Refusals after which the same pair would only be refused again.
_FINAL = frozenset({Refusal.GATE, Refusal.INVALID})
_LAYER_WEIGHT = 0.25  # what a seed tells of another blueprint at its layer, beside what it tells of its own


@dataclass(slots=True)
class OutcomeStats:
    """Seeds that came to their end, and how likely each was to help, summed."""

    seeds: int = 0
    chance: float = 0.0

    def add(self, chance: float) -> None:
        self.seeds += 1
        self.chance += chance


@dataclass(slots=True)
class PendingSeed:
    """A seed whose end is not known yet; `chance` that it helps, None before it was measured."""

    blueprint: str
    chance: float | None = None


@dataclass(slots=True)
class OutcomeHistory:
    """Outcomes by blueprint and by layer, and the pairs that are not to be tried again."""

    growing: dict[tuple[str, int], PendingSeed] = field(default_factory=dict)
    blueprints: dict[str, OutcomeStats] = field(default_factory=dict)
    layers: dict[str, OutcomeStats] = field(default_factory=dict)
    barred: set[tuple[str, str]] = field(default_factory=set)

    def rating(self, blueprint: str, layer: str, prior: float, weight: float) -> float:
        """Expected chance that a seed helps: the prior, worth `weight` seeds, and this run's outcomes."""
        own = self.blueprints.get(blueprint, OutcomeStats())
        near = self.layers.get(layer, OutcomeStats())
        total = weight * prior + own.chance + _LAYER_WEIGHT * near.chance
        return total / (weight + own.seeds + _LAYER_WEIGHT * near.seeds)

    def observe(self, seeds: Iterable[SeedState]) -> None:
        """Take in the stages of all seeds; one that is gone without a word has been culled."""
        seen = {(seed.layer, seed.seed_index): seed for seed in seeds}
        for key, seed in seen.items():
            if seed.stage in (SeedStage.CULLED, SeedStage.EMBARGOED):
                self._close(key, helped=False)
            elif seed.stage is SeedStage.FOSSILIZED:
                self._close(key, helped=True)
            else:
                entry = self.growing.setdefault(key, PendingSeed(seed.blueprint))
                if seed.impact is not None:
                    entry.chance = chance_above(seed.impact, 0.0)
        for key in [key for key in self.growing if key not in seen]:
            self._close(key, helped=False)

    def report(self, outcome: Outcome) -> None:
        """Take in what became of a command."""
        command, key = outcome.command, (outcome.command.layer, outcome.command.seed_index)
        if command.kind is CommandKind.GERMINATE:
            if outcome.applied:
                self.growing[key] = PendingSeed(command.blueprint)
            elif outcome.refusal in _FINAL:
                self.barred.add((command.layer, command.blueprint))
        elif outcome.applied and command.kind in (CommandKind.CULL, CommandKind.FOSSILIZE):
            self._close(key, helped=command.kind is CommandKind.FOSSILIZE)

    def _close(self, key: tuple[str, int], *, helped: bool) -> None:
        entry = self.growing.pop(key, None)
        if entry is None:
            return
        if helped:
            chance = 1.0 if entry.chance is None else entry.chance
        else:
            # culled for want of evidence says less than culled for harm
            chance = min(0.5, entry.chance or 0.0)
            self.barred.add((key[0], entry.blueprint))
        self.blueprints.setdefault(entry.blueprint, OutcomeStats()).add(chance)
        self.layers.setdefault(key[0], OutcomeStats()).add(chance)

    def state_dict(self) -> dict[str, Any]:
        return {
            "growing": [[layer, index, g.blueprint, g.chance] for (layer, index), g in self.growing.items()],
            "blueprints": {name: [t.seeds, t.chance] for name, t in self.blueprints.items()},
            "layers": {name: [t.seeds, t.chance] for name, t in self.layers.items()},
            "barred": sorted([layer, blueprint] for layer, blueprint in self.barred),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.growing = {(row[0], row[1]): PendingSeed(row[2], row[3]) for row in state["growing"]}
        self.blueprints = {name: OutcomeStats(*row) for name, row in state["blueprints"].items()}
        self.layers = {name: OutcomeStats(*row) for name, row in state["layers"].items()}
        self.barred = {(layer, blueprint) for layer, blueprint in state["barred"]}
