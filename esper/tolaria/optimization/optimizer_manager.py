"""The optimisers of a growing model: one for host and joined seeds, one for each seed in isolation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from esper.errors import CheckpointError, EsperError, GrowthError
from esper.kasmina import MorphableModel, Seed, TopologyChange
from esper.tolaria.checkpoint import load_named_state, named_state
from esper.tolaria.optimization.circuit_breaker import CircuitBreaker
from esper.tolaria.optimization.optimizer_checks import check_rates, check_sparse
from esper.tolaria.optimization.trainable import LOSS, Trainable

# Stands beside the optimisers in their saved state; no seed's key is spelt so.
_FLAGS = "trainable"

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class OptimizerManager:
    """Keeps what is optimised equal to what is trainable, through every change of topology.

    A seed in isolation has an optimiser of its own, so that nothing of it (clipping, loss scale, Inf)
    reaches the host; when it joins, its group and its state move to the main one. `factory` makes an
    optimiser from parameter groups; `seed_lr` and `isolation_lr` are base rates. What became of every
    change is counted in `rebuilds`. Raises `ConfigError` for an optimiser whose groups have no `lr`.

    The parameters of `loss`, where it has any, are a group of the main optimiser's called "loss", with the
    same options and base rate as the host's. Those that become trainable later `add_new_parameters` adds
    (at the start of each epoch, and with each change of topology), with fresh state, into the group of their
    kind. One that is frozen later keeps its place and its state and is not stepped, as it gets no gradient.
    """

    def __init__(
        self,
        model: MorphableModel,
        factory: OptimizerFactory,
        *,
        lr: float,
        seed_lr: float,
        isolation_lr: float,
        warmup_steps: int,
        rebuilds: CircuitBreaker | None = None,
        clock: Callable[[], float] = time.perf_counter,
        loss: Any = None,
    ) -> None:
        self.model = model
        self.trainable = Trainable(model, loss)
        self.factory = factory
        self.lr = lr
        self.seed_lr = seed_lr
        self.isolation_lr = isolation_lr
        self.warmup_steps = warmup_steps
        self.rebuilds = rebuilds or CircuitBreaker()
        self.clock = clock
        self._create_optimizers()

    def _create_optimizers(self) -> None:
        """Fresh optimisers for everything in the model that can be trained."""
        host = {"params": _trainable(self.model.host), "name": "host", "base_lr": self.lr}
        own = self.trainable.loss_parameters()
        self.main = self.factory([host, *([self._loss_group(own)] if own else [])])
        check_rates(self.main)
        check_sparse(self.model.host, self.factory)
        self.isolated: dict[str, torch.optim.Optimizer] = {}
        # a model may come with seeds: loaded kernels, or a grown model that trains on
        for record in self.model.alive_records():
            seed = self.model.seed_module(record)
            self._isolate(record.key, seed)
            if record.joined:
                self._join(record.key, seed, step=-self.warmup_steps)

    def _loss_group(self, params: list[nn.Parameter]) -> dict[str, Any]:
        return {"params": params, "name": LOSS, "base_lr": self.lr}

    # -- what is optimised -----------------------------------------------------------------------

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that some optimiser holds."""
        for optimizer in (self.main, *self.isolated.values()):
            for group in optimizer.param_groups:
                yield from group["params"]

    def shared_parameters(self) -> list[nn.Parameter]:
        """What is clipped together: the host, the loss's own, and the seeds that have joined."""
        return [p for group in self.main.param_groups for p in group["params"]]

    def entries(self, parameters: list[nn.Parameter]) -> int:
        """How many group or state entries there are for these parameters."""
        wanted = {id(p) for p in parameters}
        held = sum(id(p) in wanted for p in self.parameters())
        state = sum(id(p) in wanted for o in (self.main, *self.isolated.values()) for p in o.state)
        return held + state

    # -- following the topology ------------------------------------------------------------------

    def apply(self, change: TopologyChange, step: int) -> None:
        """Follow a change of topology; where something raises, the optimisers are as they were before.

        What stays keeps its group, with all options, and its state, untouched.
        """
        if not change.structural:
            self.rebuilds.skip()
            return
        began = self.clock()
        groups, state = list(self.main.param_groups), dict(self.main.state)
        members = [list(group["params"]) for group in groups]
        isolated = dict(self.isolated)
        try:
            self._apply_change(change, step)
            self.add_new_parameters(step)
        except Exception as error:
            self.main.param_groups[:] = groups
            for group, params in zip(groups, members, strict=True):
                group["params"][:] = params
            self.main.state.clear()
            self.main.state.update(state)
            self.isolated = isolated
            self.rebuilds.failure(step, self._ms_since(began), f"{type(error).__name__}: {error}")
            raise
        self.rebuilds.success(step, self._ms_since(began))

    def _apply_change(self, change: TopologyChange, step: int) -> None:
        for key, seed in change.added:
            self._isolate(key, seed)
        for key, seed in change.activated:
            self._join(key, seed, step)
        for key, seed in change.removed:
            self._remove_seed(key, seed)

    def _ms_since(self, began: float) -> float:
        return 1e3 * (self.clock() - began)

    def _isolate(self, key: str, seed: Seed) -> None:
        params = _trainable(seed)
        if params:
            group = {"params": params, "name": key, "base_lr": self.isolation_lr, "lr": self.isolation_lr}
            self.isolated[key] = self.factory([group])

    def _join(self, key: str, seed: Seed, step: int) -> None:
        params = _trainable(seed)
        if not params:
            return
        alone = self.isolated.pop(key)
        self.main.add_param_group(
            {
                "params": params,
                "name": key,
                "base_lr": self.seed_lr,
                "born_step": step,
                "warmup_steps": self.warmup_steps,
            }
        )
        for param in params:
            if param in alone.state:
                self.main.state[param] = alone.state[param]

    def _remove_seed(self, key: str, seed: Seed) -> None:
        self.isolated.pop(key, None)
        removed = {id(param) for param in seed.parameters()}
        # by what it holds and not by name: the slot may be another seed's by now
        self.main.param_groups[:] = [
            g for g in self.main.param_groups if not (g["params"] and id(g["params"][0]) in removed)
        ]
        for param in seed.parameters():
            self.main.state.pop(param, None)

    def add_new_parameters(self, step: int) -> list[str]:
        """Take in what has become trainable, forget what the host has replaced; returns the names taken in.

        Raises `ConfigError` where parameters of host or loss have been added, taken away or reshaped.
        """
        self.trainable.check()
        self._drop_replaced()
        held = {id(p) for p in self.parameters()}
        late = [(n, p) for n, p in self.trainable.named() if p.requires_grad and id(p) not in held]
        by_group: dict[str, list[nn.Parameter]] = {}
        for name, param in late:
            kind, _, rest = name.partition(".")
            by_group.setdefault(rest.partition(".")[0] if kind == "seeds" else kind, []).append(param)
            param.grad = None  # nobody has cleared what it has gathered until now
        for group, params in by_group.items():
            self._add_to_group(group, params, step)
        return [name for name, _ in late]

    def _add_to_group(self, name: str, params: list[nn.Parameter], step: int) -> None:
        optimizer = self.isolated.get(name, self.main)
        group = next((group for group in optimizer.param_groups if group["name"] == name), None)
        if group is None and name in self.model.seeds:
            self._add_seed(name, step)
            return
        options = self._loss_group(params) if group is None else {**group, "params": params}
        # some optimisers make their state with themselves: a throw-away one makes it for these
        fresh = self.factory([dict(options)]).state
        if group is None:
            optimizer.add_param_group(options)
        else:
            group["params"].extend(params)
        optimizer.state.update({param: fresh[param] for param in params if param in fresh})

    def _add_seed(self, key: str, step: int) -> None:
        """Optimise a seed of which nothing could be trained before."""
        record = next(record for record in self.model.alive_records() if record.key == key)
        self._isolate(key, self.model.seed_module(record))
        if record.joined:
            self._join(key, self.model.seed_module(record), step)

    def _drop_replaced(self) -> None:
        """Let go of parameters that are no longer anywhere in model or loss."""
        there = {id(p) for _, p in self.trainable.named()}
        for optimizer in (self.main, *self.isolated.values()):
            for group in optimizer.param_groups:
                removed = [p for p in group["params"] if id(p) not in there]
                if removed:
                    group["params"][:] = [p for p in group["params"] if id(p) in there]
                for param in removed:
                    optimizer.state.pop(param, None)

    def follow_fold(self, folded: MorphableModel, names: Mapping[str, str], step: int) -> None:
        """Go over to a folded copy of the model that was made growable again.

        `names` leads from each parameter's name to that of its copy in the plain host (`fold_with_names`).
        Every copy takes the state and the group of what it was copied from; the group of a seed keeps its
        options under a name that leaves its slot to a new one. Raises `GrowthError`, with nothing changed,
        where a parameter would be left behind or not be optimised.
        """
        began = self.clock()
        old, new = dict(self.model.named_parameters()), dict(folded.host.named_parameters())
        heirs = {old[a]: new[b] for a, b in names.items() if a in old and b in new}
        heirs |= {param: param for name, param in self.trainable.named() if name.startswith(f"{LOSS}.")}
        follows = Trainable(folded, self.trainable.loss)
        inherited = {heirs.get(param) for param in self.parameters() if param.requires_grad}
        if self.isolated or inherited != set(follows.required()):
            reason = "the folded model does not hold exactly the parameters that are optimised"
            self.rebuilds.failure(step, self._ms_since(began), reason)
            raise GrowthError(f"{reason}; expected wrap(host) with host, names = fold_with_names(model)")
        self._hand_over(heirs)
        self.model, self.trainable = folded, follows
        self.rebuilds.success(step, self._ms_since(began))

    def _hand_over(self, heirs: Mapping[nn.Parameter, nn.Parameter]) -> None:
        state = dict(self.main.state)
        self.main.state.clear()
        for group in self.main.param_groups:
            for param in group["params"]:
                if param in state:
                    self.main.state[heirs[param]] = state[param]
            group["params"] = [heirs[param] for param in group["params"]]
            group["name"] = group["name"] if group["name"] in ("host", LOSS) else f"folded {group['name']}"

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State by parameter name: tensors and JSON, for each optimiser, and which parameters are frozen.

        `pending` are those that have become trainable and wait to be picked up.
        """
        self._drop_replaced()  # they have no name; nothing else depends on when they are forgotten
        names = self.trainable.named()
        held = {id(p) for p in self.parameters()}
        pending = [name for name, p in names if p.requires_grad and id(p) not in held]
        saved: dict[str, Any] = {_FLAGS: {"frozen": self.trainable.frozen(), "pending": pending}}
        for label, optimizer in (("main", self.main), *self.isolated.items()):
            tensors, meta = named_state(optimizer, names, copy=False)
            saved[label] = {"tensors": tensors, "meta": meta}
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Rebuild the optimisers for the model's present seeds and restore all state and options.

        Raises `CheckpointError` for state that does not fit: there is no silent fresh start. The optimisers
        are then as they were, or, where those would not be the model's any more, begin anew, and the error
        says so.
        """
        flags, optimizers = _split_saved(saved)
        undo_freeze = self.trainable.freeze_only(flags["frozen"]) if "frozen" in flags else _nothing
        try:
            restored = self._restored(optimizers, flags.get("pending", ()))
        except (EsperError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, EsperError) else f"damaged: {error!r}"
            undo_freeze()
            if {p for p in self.parameters() if p.requires_grad} != set(self.trainable.required()):
                self._create_optimizers()
                reason += " (the optimisers begin anew)"
            raise CheckpointError(f"the saved optimisers cannot be restored: {reason}") from error
        self.main, self.isolated = restored.pop("main"), restored

    def _restored(self, saved: Mapping[str, Any], pending: Iterable[str]) -> dict[str, torch.optim.Optimizer]:
        names = dict(self.trainable.named())
        made: dict[str, torch.optim.Optimizer] = {}
        if "main" not in saved:
            raise CheckpointError("there is none for the host")
        for label, part in saved.items():
            groups = [
                {"params": _named(names, g["params"]), **_group_fields(g)} for g in part["meta"]["groups"]
            ]
            made[label] = self.factory(groups)
            load_named_state(made[label], list(names.items()), part["tensors"], part["meta"])
        _check_each_held_once({n: p for n, p in names.items() if n not in set(pending)}, made.values())
        return made


def _split_saved(saved: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What is said of the parameters, and the optimisers; a state of an older Esper says nothing of them."""
    return saved.get(_FLAGS, {}), {label: part for label, part in saved.items() if label != _FLAGS}


def _nothing() -> None:
    """There is nothing to undo."""


def _check_each_held_once(
    names: Mapping[str, nn.Parameter], optimizers: Iterable[torch.optim.Optimizer]
) -> None:
    held = Counter(param for o in optimizers for group in o.param_groups for param in group["params"])
    if lost := [name for name, param in names.items() if param.requires_grad and held[param] != 1]:
        raise CheckpointError(f"held by none of them, or by two: {', '.join(lost[:5])}")


def _named(names: Mapping[str, nn.Parameter], wanted: Sequence[str]) -> list[nn.Parameter]:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CheckpointError(f"the saved optimiser has parameters the model lacks: {', '.join(missing)}")
    return [names[name] for name in wanted]


def _group_fields(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("name", "base_lr", "born_step", "warmup_steps") if name in group}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
