"""Attributes the gradient of a step to the host and to each seed, for metrics and for weights.

The host includes folded seeds and the parameters of a loss.

- Norms and shares are of the gradient that the optimiser gets, before clipping. Host and seeds have disjoint
  parameters, so their squared norms add up to that of the whole, and shares to 1. For the same reason host
  and seeds, or two seeds, cannot conflict.
- Conflicts are counted over one seed's parameters, between the gradients of the micro-batches of a step, or
  of the objectives if an aggregation other than `sum` computes them separately.
- A weight is alpha for a seed that has joined, else 0. It is reported; with `apply` it also scales the seed's
  step.

Every `SAMPLE_STEPS`-th step is sampled, and the first after each change of topology. The device is
synchronised only at the end of the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina import SeedManager, SeedRecord
from esper.leyline import EventName, Level
from esper.tolaria.events import Telemetry
from esper.tolaria.gradients.backward import PlainBackward
from esper.tolaria.gradients.seed_metrics import PREFIX, SeedGradients, update_metrics, warnings
from esper.tolaria.gradients.seed_shares import (
    COLUMNS,
    CONFLICTS,
    SAMPLES,
    SHARE,
    accumulate,
    added_gradient,
    conflicts,
    flat_gradient,
    largest,
    layer_norms,
    resolve_weights,
    scale_steps,
    squared_norms,
)
from esper.tolaria.loss.objectives import Losses
from esper.tolaria.optimization.optimizer_manager import OptimizerManager
from esper.tolaria.optimization.precision import Precision

# A sample reads all gradients, which takes about a tenth of a step: under one percent of the run.
SAMPLE_STEPS = 16
HOST = "host"
_WHAT = "the shares of host and seeds in the gradient"


@dataclass(frozen=True, slots=True)
class _Owner:
    """The host or a seed, with its parameters; `record` is None for the host."""

    key: str
    params: Sequence[nn.Parameter]
    record: SeedRecord | None = None


class SeedAttribution:
    """Collects norms, shares and conflicts of the gradients of the host and of each living seed.

    Call `microbatch` after each backward pass of a step with several (or `tasks` if the tasks' gradients are
    available), `before_step` when gradients are unscaled and learning rates set, and `flush` once per epoch.

    Args:
        optimizers: the optimisers with the parameters of host and seeds.
        seeds: the seed manager.
        device: where sums are kept.
        apply: scale the steps of seeds by their weights.
        layers: the number of layers of each seed whose norms are reported, 0 for none.
        attempt: calls a function that only measures, under a name, so that its failure does not end the run.
    """

    def __init__(
        self,
        optimizers: OptimizerManager,
        seeds: SeedManager,
        device: torch.device,
        *,
        apply: bool = False,
        layers: int = 0,
        attempt: Callable[[str, Callable[[], None]], object] | None = None,
    ) -> None:
        self.attempt = attempt or (lambda what, measure: measure())
        self.optimizers = optimizers
        self.seeds = seeds
        self.device = device
        self.apply = apply
        self.layers = layers
        self._steps = 0
        self._groups: list[str] = []
        self._order: list[str] = []
        self._sums = torch.zeros(0, COLUMNS, device=device)
        self._pairs: dict[str, int] = {}
        self._squares: dict[str, Tensor] = {}
        self._last_shares: dict[str, float] = {}
        self._clear_window()

    def _clear_window(self) -> None:
        self._owners: list[_Owner] | None = None
        self._before: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {}

    # -- one window ------------------------------------------------------------------------------

    def microbatch(self) -> None:
        """Record what the last micro-batch has added to the seeds' gradients."""
        self.attempt(_WHAT, self._add_microbatch)

    def _add_microbatch(self) -> None:
        for owner in self._sampled()[1:]:
            if owner.params:
                now = flat_gradient([p.grad for p in owner.params], owner.params)
                self._add_row(owner, added_gradient(now, self._before.get(owner.key)))
                self._before[owner.key] = now

    def tasks(self, rows: Sequence[Sequence[Tensor | None]], parameters: Sequence[nn.Parameter]) -> None:
        """Record each task's gradients (a row) for `parameters`; tasks without any for a seed are skipped."""
        places = {id(p): i for i, p in enumerate(parameters)}
        for owner in self._sampled()[1:]:
            for row in rows:
                own = [row[places[id(p)]] for p in owner.params]
                if any(gradient is not None for gradient in own):
                    self._add_row(owner, flat_gradient(own, owner.params))

    def _add_row(self, owner: _Owner, row: Tensor) -> None:
        self._rows.setdefault(owner.key, []).append(row)

    def before_step(self) -> None:
        """Sample the gradients of the step if it is due, and scale the steps of seeds with `apply`."""
        if self.apply:
            scale_steps(self.optimizers.main.param_groups, self._weights())
        self.attempt(_WHAT, self._sample)
        self._steps += 1
        self._clear_window()

    def _sample(self) -> None:
        owners = self._sampled()
        if owners:
            self._assign_rows(owners)
            squares = squared_norms([[p.grad for p in owner.params] for owner in owners], self.device)
            valid = accumulate(self._sums, squares)
            if self.layers:
                self._add_layers(owners[1:], squares[1:], valid)
            self._count_conflicts(valid)

    def _weights(self) -> dict[str, float]:
        alive_records = self.seeds.model.alive_records()
        alphas = [self.seeds.alpha(record) for record in alive_records]
        weights = resolve_weights([record.stage for record in alive_records], alphas)
        return {
            record.key: weight for record, weight in zip(alive_records, weights, strict=True) if record.joined
        }

    def _sampled(self) -> list[_Owner]:
        """The owners of gradients, the host first, if this window is sampled; else an empty list."""
        if self._owners is None:
            groups = [group["name"] for group in self.optimizers.main.param_groups]
            due = self._steps % SAMPLE_STEPS == 0 or groups != self._groups
            self._groups = groups
            self._owners = list(self._list_owners()) if due else []
        return self._owners

    def _list_owners(self) -> Iterator[_Owner]:
        alive_records = {record.key: record for record in self.seeds.model.alive_records()}
        if not any(record.joined for record in alive_records.values()):
            return
        by_seed: dict[str, list[nn.Parameter]] = {HOST: []}
        for group in self.optimizers.main.param_groups:
            key = group["name"] if group["name"] in alive_records else HOST
            by_seed.setdefault(key, []).extend(group["params"])
        yield _Owner(HOST, by_seed[HOST])
        for key, record in alive_records.items():
            yield _Owner(f"{key}@{record.germinated_step}", by_seed.get(key, ()), record)

    # -- sums ------------------------------------------------------------------------------------

    def _assign_rows(self, owners: Sequence[_Owner]) -> None:
        """Assign each owner a row of sums; existing owners keep theirs, removed ones lose theirs."""
        order = [owner.key for owner in owners]
        if order != self._order:
            old = dict(zip(self._order, self._sums.unbind(), strict=True))
            fresh = torch.zeros(COLUMNS, device=self.device)
            self._sums = torch.stack([old.get(key, fresh) for key in order])
            self._order = order

    def _add_layers(self, owners: Sequence[_Owner], squares: Sequence[Tensor], valid: Tensor) -> None:
        for owner, part in zip(owners, squares, strict=True):
            if len(part):
                new = torch.where(valid, part, 0.0)
                self._squares[owner.key] = self._squares.get(owner.key, torch.zeros_like(part)) + new

    def _count_conflicts(self, valid: Tensor) -> None:
        for key, rows in self._rows.items():
            if len(rows) > 1:
                self._sums[self._order.index(key), CONFLICTS] += conflicts(rows) * valid
                self._pairs[key] = self._pairs.get(key, 0) + len(rows) * (len(rows) - 1) // 2

    # -- once an epoch ---------------------------------------------------------------------------

    def flush(self, telemetry: Telemetry) -> list[SeedGradients]:
        """Emit the metrics since the last call and reset them; synchronises with the device.

        Without a sample there is no event. A seed that was removed meanwhile is not reported.
        """
        table = dict(zip(self._order, self._sums.tolist(), strict=True))
        alive_records = {f"{r.key}@{r.germinated_step}": r for r in self.seeds.model.alive_records()}
        seeds = {
            key: self._report(record, key, table[key])
            for key, record in alive_records.items()
            if key in table
        }
        if seeds:
            host = table[HOST]
            data = {
                "tolaria.grad_agg.teacher_share": host[SHARE] / max(host[SAMPLES], 1.0),
                "tolaria.grad_agg.sampled_steps": int(host[SAMPLES]),
                "tolaria.grad_agg.weights_applied": self.apply,
                "seeds": [self._to_json(seed, alive_records[key], table[key]) for key, seed in seeds.items()],
            }
            telemetry.emit(EventName.SEED_GRADIENTS, data, level=Level.DEBUG)
            for name, facts in warnings(list(seeds.values())):
                telemetry.emit(name, facts)
        self._last_shares = {key: seed.share for key, seed in seeds.items()}
        self._begin_epoch()
        return list(seeds.values())

    def _report(self, record: SeedRecord, key: str, sums: Sequence[float]) -> SeedGradients:
        alpha = self.seeds.alpha(record)
        return SeedGradients(
            layer=record.layer,
            seed=record.index,
            stage=record.stage.value,
            weight=resolve_weights([record.stage], [alpha])[0],
            alpha=alpha,
            pairs=self._pairs.get(key, 0),
            **update_metrics(sums, self._last_shares.get(key)),
        )

    def _to_json(self, seed: SeedGradients, record: SeedRecord, sums: Sequence[float]) -> dict[str, Any]:
        data = seed.to_json()
        squares = self._squares.get(f"{record.key}@{record.germinated_step}")
        if squares is not None:
            named = self.seeds.model.seed_module(record).named_parameters()
            names = [name for name, parameter in named if parameter.requires_grad]
            norms = layer_norms(names, squares.tolist(), sums[SAMPLES])
            data[f"{PREFIX}layer_norm"] = largest(norms, self.layers)
        return data

    def _begin_epoch(self) -> None:
        self._order = []
        self._sums = torch.zeros(0, COLUMNS, device=self.device)
        self._pairs.clear()
        self._squares.clear()

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "groups": list(self._groups),
            "order": list(self._order),
            "sums": self._sums,
            "pairs": dict(self._pairs),
            "squares": {str(i): [key, value] for i, (key, value) in enumerate(self._squares.items())},
            "last_shares": dict(self._last_shares),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, also in the middle of an epoch."""
        self._clear_window()
        self._steps, self._groups = state["steps"], list(state["groups"])
        self._order = list(state["order"])
        self._sums = state["sums"].to(self.device, copy=True)
        self._pairs, self._last_shares = dict(state["pairs"]), dict(state["last_shares"])
        self._squares = {key: value.to(self.device, copy=True) for key, value in state["squares"].values()}


class AttributedBackward(PlainBackward):
    """Plain accumulation that reports each of several micro-batches to the attribution."""

    def __init__(self, precision: Precision, attribution: SeedAttribution) -> None:
        super().__init__(precision)
        self.attribution = attribution

    def add(self, losses: Losses, share: float | Tensor) -> None:
        super().add(losses, share)
        if self.microbatches > 1:
            self.attribution.microbatch()
