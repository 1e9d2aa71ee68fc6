"""The optimisers of a growing model: one for host and joined seeds, one for each seed in isolation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from esper.config.problems import problem
from esper.errors import CheckpointError, ConfigError, EsperError, GrowthError
from esper.kasmina import MorphableModel, Seed, TopologyChange
from esper.tolaria.rebuilds import Rebuilds
from esper.tolaria.state import load_named_state, named_state

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class OptimizerManager:
    """Keeps what is optimised equal to what is trainable, through every change of topology.

    A seed in isolation has an optimiser of its own, so that nothing of it (clipping, loss scale, Inf)
    reaches the host; when it joins, its group and its state move to the main one. `factory` makes an
    optimiser from parameter groups; `seed_lr` and `isolation_lr` are base rates. What became of every
    change is counted in `rebuilds`. Raises `ConfigError` for an optimiser whose groups have no `lr`.
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
        rebuilds: Rebuilds | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.factory = factory
        self.lr = lr
        self.seed_lr = seed_lr
        self.isolation_lr = isolation_lr
        self.warmup_steps = warmup_steps
        self.rebuilds = rebuilds or Rebuilds()
        self.clock = clock
        self._begin()

    def _begin(self) -> None:
        """Fresh optimisers for everything in the model that can be trained."""
        host = {"params": _trainable(self.model.host), "name": "host", "base_lr": self.lr}
        self.main = self.factory([host])
        _check_rates(self.main)
        _check_sparse(self.model.host, self.factory)
        self.isolated: dict[str, torch.optim.Optimizer] = {}
        # a model may come with seeds: loaded kernels, or a grown model that trains on
        for record in self.model.living():
            seed = self.model.seed_module(record)
            self._isolate(record.key, seed)
            if record.joined:
                self._join(record.key, seed, step=-self.warmup_steps)

    # -- what is optimised -----------------------------------------------------------------------

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that some optimiser holds."""
        for optimizer in (self.main, *self.isolated.values()):
            for group in optimizer.param_groups:
                yield from group["params"]

    def shared_parameters(self) -> list[nn.Parameter]:
        """What is clipped together: the host and the seeds that have joined it."""
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
        isolated = dict(self.isolated)
        try:
            self._follow(change, step)
        except Exception as error:
            self.main.param_groups[:] = groups
            self.main.state.clear()
            self.main.state.update(state)
            self.isolated = isolated
            self.rebuilds.failure(step, self._ms_since(began), f"{type(error).__name__}: {error}")
            raise
        self.rebuilds.success(step, self._ms_since(began))

    def _follow(self, change: TopologyChange, step: int) -> None:
        for key, seed in change.born:
            self._isolate(key, seed)
        for key, seed in change.joined:
            self._join(key, seed, step)
        for key, seed in change.gone:
            self._forget(key, seed)

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

    def _forget(self, key: str, seed: Seed) -> None:
        self.isolated.pop(key, None)
        gone = {id(param) for param in seed.parameters()}
        # by what it holds and not by name: the slot may be another seed's by now
        self.main.param_groups[:] = [
            g for g in self.main.param_groups if not (g["params"] and id(g["params"][0]) in gone)
        ]
        for param in seed.parameters():
            self.main.state.pop(param, None)

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
        inherited = {heirs.get(param) for param in self.parameters()}
        if self.isolated or inherited != set(_trainable(folded)):
            reason = "the folded model does not hold exactly the parameters that are optimised"
            self.rebuilds.failure(step, self._ms_since(began), reason)
            raise GrowthError(f"{reason}; expected wrap(host) with host, names = fold_with_names(model)")
        self._hand_over(heirs)
        self.model = folded
        self.rebuilds.success(step, self._ms_since(began))

    def _hand_over(self, heirs: Mapping[nn.Parameter, nn.Parameter]) -> None:
        state = dict(self.main.state)
        self.main.state.clear()
        for group in self.main.param_groups:
            for param in group["params"]:
                if param in state:
                    self.main.state[heirs[param]] = state[param]
            group["params"] = [heirs[param] for param in group["params"]]
            group["name"] = group["name"] if group["name"] == "host" else f"folded {group['name']}"

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State by parameter name: tensors and JSON, for each optimiser."""
        names = list(self.model.named_parameters())
        saved: dict[str, Any] = {}
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
        try:
            restored = self._restored(saved)
        except (EsperError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, EsperError) else f"damaged: {error!r}"
            if {id(p) for p in self.parameters()} != {id(p) for p in _trainable(self.model)}:
                self._begin()
                reason += " (the optimisers begin anew)"
            raise CheckpointError(f"the saved optimisers cannot be restored: {reason}") from error
        self.main, self.isolated = restored.pop("main"), restored

    def _restored(self, saved: Mapping[str, Any]) -> dict[str, torch.optim.Optimizer]:
        names = dict(self.model.named_parameters())
        made: dict[str, torch.optim.Optimizer] = {}
        if "main" not in saved:
            raise CheckpointError("there is none for the host")
        for label, part in saved.items():
            groups = [{"params": _named(names, g["params"]), **_late(g)} for g in part["meta"]["groups"]]
            made[label] = self.factory(groups)
            load_named_state(made[label], list(names.items()), part["tensors"], part["meta"])
        _check_each_held_once(names, made.values())
        return made


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


def _late(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("name", "base_lr", "born_step", "warmup_steps") if name in group}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _check_rates(optimizer: torch.optim.Optimizer) -> None:
    if any("lr" not in group for group in optimizer.param_groups):
        raise ConfigError(
            problem(
                "optimization.optimizer",
                type(optimizer).__name__,
                "an optimiser whose groups have lr, which the schedule sets",
            )
        )


def _check_sparse(host: nn.Module, factory: OptimizerFactory) -> None:
    """Raise `ConfigError` where a layer has sparse gradients and the optimiser cannot use or keep them."""
    kinds = nn.Embedding | nn.EmbeddingBag
    found = [name for name, m in host.named_modules() if isinstance(m, kinds) and m.sparse]
    if not found:
        return
    tried = nn.Parameter(torch.zeros(2, 2))
    optimizer = factory([{"params": [tried], "name": "host", "base_lr": 0.0}])
    if reason := _trouble_with_sparse(optimizer, tried):
        expected = f"one for the sparse gradients of {found[0]!r}, or sparse=False there ({reason})"
        raise ConfigError(problem("optimization.optimizer", type(optimizer).__name__, expected))


def _trouble_with_sparse(optimizer: torch.optim.Optimizer, tried: nn.Parameter) -> str:
    tried.grad = torch.ones(2, 2).to_sparse(1)
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    kept = [value for value in optimizer.state[tried].values() if isinstance(value, torch.Tensor)]
    return "its state is sparse and could not be saved" if any(t.is_sparse for t in kept) else ""
