"""The optimisers of a growing model: one for host and joined seeds, one for each seed in isolation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from esper.errors import CheckpointError, EsperError
from esper.kasmina import MorphableModel, Seed, TopologyChange
from esper.tolaria.optimization.circuit_breaker import CircuitBreaker
from esper.tolaria.optimization.optimizer_checks import check_rates, check_sparse
from esper.tolaria.optimization.optimizer_state import load_named_state, named_state
from esper.tolaria.optimization.trainable import LOSS, Trainable

# The key beside the optimisers in the saved state; it cannot be the key of a seed.
_FLAGS = "trainable"

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class BaseRates:
    """Learning rates before schedule and warm-up.

    Args:
        host: of host and loss.
        seed: of joined seeds.
        isolation: of seeds in isolation.
        warmup_steps: optimiser steps of the warm-up of a seed that has joined.
    """

    host: float
    seed: float
    isolation: float
    warmup_steps: int


class OptimizerManager:
    """Optimises exactly the trainable parameters, through every change of topology.

    A seed in isolation has a separate optimiser, so that its clipping, loss scale or Inf cannot affect the
    host; when it joins, its group and its state move to the main optimiser. The parameters of `loss`, if any,
    are a group "loss" of the main optimiser with the host's options and base rate. Parameters that become
    trainable later are added by `add_new_parameters` (at the start of each epoch and with each change of
    topology). A parameter that is frozen later keeps its group and state, and is not stepped because it has
    no gradient.

    Args:
        model: the growing model.
        factory: makes an optimiser from parameter groups.
        rates: base learning rates.
        rebuilds: counts the results of the changes.
        clock: in seconds.
        loss: the loss function, whose parameters are trained if it is a module.

    Raises:
        ConfigError: the optimiser's groups have no `lr`, or it does not support the host's gradients.
    """

    def __init__(
        self,
        model: MorphableModel,
        factory: OptimizerFactory,
        *,
        rates: BaseRates,
        rebuilds: CircuitBreaker | None = None,
        clock: Callable[[], float] = time.perf_counter,
        loss: Any = None,
    ) -> None:
        self.model = model
        self.trainable = Trainable(model, loss)
        self.factory = factory
        self.rates = rates
        self.rebuilds = rebuilds or CircuitBreaker()
        self.clock = clock
        self._create_optimizers()

    def _create_optimizers(self) -> None:
        """Create the optimisers of all trainable parameters, without state."""
        host = {"params": _trainable(self.model.host), "name": "host", "base_lr": self.rates.host}
        of_loss = self.trainable.loss_parameters()
        self.main = self.factory([host, *([self._loss_group(of_loss)] if of_loss else [])])
        check_rates(self.main)
        check_sparse(self.model.host, self.factory)
        self.isolated: dict[str, torch.optim.Optimizer] = {}
        # a model may have seeds already: loaded kernels, or a grown model that is trained further
        for record in self.model.alive_records():
            seed = self.model.seed_module(record)
            self._isolate(record.key, seed)
            if record.joined:
                self._join(record.key, seed, step=-self.rates.warmup_steps)

    def _loss_group(self, params: list[nn.Parameter]) -> dict[str, Any]:
        return {"params": params, "name": LOSS, "base_lr": self.rates.host}

    # -- parameters ------------------------------------------------------------------------------

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of all optimisers."""
        for optimizer in (self.main, *self.isolated.values()):
            for group in optimizer.param_groups:
                yield from group["params"]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters of the main optimiser, clipped together: host, loss and joined seeds."""
        return [p for group in self.main.param_groups for p in group["params"]]

    def entries(self, parameters: list[nn.Parameter]) -> int:
        """The number of group and state entries of these parameters."""
        wanted = {id(p) for p in parameters}
        held = sum(id(p) in wanted for p in self.parameters())
        state = sum(id(p) in wanted for o in (self.main, *self.isolated.values()) for p in o.state)
        return held + state

    # -- changes of topology ---------------------------------------------------------------------

    def apply(self, change: TopologyChange, step: int) -> None:
        """Apply a change of topology; if something raises, the optimisers are as they were before.

        Parameters that stay keep their groups, options and state.

        Args:
            change: what the model has changed.
            step: optimiser steps done.
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
            group = {
                "params": params,
                "name": key,
                "base_lr": self.rates.isolation,
                "lr": self.rates.isolation,
            }
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
                "base_lr": self.rates.seed,
                "born_step": step,
                "warmup_steps": self.rates.warmup_steps,
            }
        )
        for param in params:
            if param in alone.state:
                self.main.state[param] = alone.state[param]

    def _remove_seed(self, key: str, seed: Seed) -> None:
        self.isolated.pop(key, None)
        removed = {id(param) for param in seed.parameters()}
        # by parameter and not by name: another seed may have the slot by now
        self.main.param_groups[:] = [
            g for g in self.main.param_groups if not (g["params"] and id(g["params"][0]) in removed)
        ]
        for param in seed.parameters():
            self.main.state.pop(param, None)

    def add_new_parameters(self, step: int) -> list[str]:
        """Add parameters that have become trainable, and remove those that the host has replaced.

        Returns:
            The names of the added parameters.

        Raises:
            ConfigError: parameters of host or loss were added, removed or reshaped.
        """
        self.trainable.check()
        self._drop_replaced()
        held = {id(p) for p in self.parameters()}
        new = [(n, p) for n, p in self.trainable.named() if p.requires_grad and id(p) not in held]
        by_group: dict[str, list[nn.Parameter]] = {}
        for name, param in new:
            kind, _, rest = name.partition(".")
            by_group.setdefault(rest.partition(".")[0] if kind == "seeds" else kind, []).append(param)
            param.grad = None  # it may have accumulated gradients that were never cleared
        for group, params in by_group.items():
            self._add_to_group(group, params, step)
        return [name for name, _ in new]

    def _add_to_group(self, name: str, params: list[nn.Parameter], step: int) -> None:
        optimizer = self.isolated.get(name, self.main)
        group = next((group for group in optimizer.param_groups if group["name"] == name), None)
        if group is None and name in self.model.seeds:
            self._add_seed(name, step)
            return
        options = self._loss_group(params) if group is None else {**group, "params": params}
        # some optimisers initialise their state in __init__: a temporary one does so for these parameters
        fresh = self.factory([dict(options)]).state
        if group is None:
            optimizer.add_param_group(options)
        else:
            group["params"].extend(params)
        optimizer.state.update({param: fresh[param] for param in params if param in fresh})

    def _add_seed(self, key: str, step: int) -> None:
        """Add a seed that had no trainable parameter before."""
        record = next(record for record in self.model.alive_records() if record.key == key)
        self._isolate(key, self.model.seed_module(record))
        if record.joined:
            self._join(key, self.model.seed_module(record), step)

    def _drop_replaced(self) -> None:
        """Remove parameters that are no longer part of model or loss."""
        present = {id(p) for _, p in self.trainable.named()}
        for optimizer in (self.main, *self.isolated.values()):
            for group in optimizer.param_groups:
                removed = [p for p in group["params"] if id(p) not in present]
                if removed:
                    group["params"][:] = [p for p in group["params"] if id(p) in present]
                for param in removed:
                    optimizer.state.pop(param, None)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State by parameter name: tensors and JSON for each optimiser, and the names of frozen parameters.

        `pending` are parameters that have become trainable and are not optimised yet.
        """
        self._drop_replaced()  # they have no name any more
        names = self.trainable.named()
        held = {id(p) for p in self.parameters()}
        pending = [name for name, p in names if p.requires_grad and id(p) not in held]
        saved: dict[str, Any] = {_FLAGS: {"frozen": self.trainable.frozen(), "pending": pending}}
        for label, optimizer in (("main", self.main), *self.isolated.items()):
            tensors, meta = named_state(optimizer, names, copy=False)
            saved[label] = {"tensors": tensors, "meta": meta}
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Rebuild the optimisers for the model's present seeds, and restore all state and options.

        Raises:
            CheckpointError: the state does not fit. The optimisers are then as they were, or, if those do not
                match the model any more, without state, and the message says so.
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
                reason += " (the optimisers start without state)"
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
    """The flags of the parameters (none in states of earlier versions), and the states of the optimisers."""
    return saved.get(_FLAGS, {}), {label: part for label, part in saved.items() if label != _FLAGS}


def _nothing() -> None:
    """Undoes no freezing."""


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
