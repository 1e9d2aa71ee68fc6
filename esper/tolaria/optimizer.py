"""The optimisers of a growing model: one for host and joined seeds, one for each seed in isolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from esper.errors import CheckpointError
from esper.kasmina import MorphableModel, Seed, TopologyChange
from esper.tolaria.state import load_named_state, named_state

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class OptimizerManager:
    """Keeps what is optimised equal to what is trainable, through every change of topology.

    A seed in isolation has an optimiser of its own, so that nothing of it (clipping, loss scale, Inf)
    reaches the host; when it joins, its group and its state move to the main one. `factory` makes an
    optimiser from parameter groups; `seed_lr` and `isolation_lr` are base rates.
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
    ) -> None:
        self.model = model
        self.factory = factory
        self.seed_lr = seed_lr
        self.isolation_lr = isolation_lr
        self.warmup_steps = warmup_steps
        self.main = factory([{"params": _trainable(model.host), "name": "host", "base_lr": lr}])
        self.isolated: dict[str, torch.optim.Optimizer] = {}
        # a model may come with seeds: loaded kernels, or a grown model that trains on
        for record in model.living():
            seed = model.seed_module(record)
            self._isolate(record.key, seed)
            if record.joined:
                self._join(record.key, seed, step=-warmup_steps)

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
        """Follow a change of topology; where something raises, the optimisers are as they were before."""
        groups, state = list(self.main.param_groups), dict(self.main.state)
        isolated = dict(self.isolated)
        try:
            for key, seed in change.born:
                self._isolate(key, seed)
            for key, seed in change.joined:
                self._join(key, seed, step)
            for key, seed in change.gone:
                self._forget(key, seed)
        except Exception:
            self.main.param_groups[:] = groups
            self.main.state.clear()
            self.main.state.update(state)
            self.isolated = isolated
            raise

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
        self.main.param_groups[:] = [g for g in self.main.param_groups if g["name"] != key]
        for param in seed.parameters():
            self.main.state.pop(param, None)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State by parameter name: tensors and JSON, for each optimiser."""
        names = list(self.model.named_parameters())
        saved: dict[str, Any] = {}
        for label, optimizer in (("main", self.main), *self.isolated.items()):
            tensors, meta = named_state(optimizer, names)
            saved[label] = {"tensors": tensors, "meta": meta}
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Rebuild the groups for the model's present seeds and restore all state.

        Raises `CheckpointError` for state that does not fit: there is no silent fresh start.
        """
        names = dict(self.model.named_parameters())
        self.main.param_groups[1:] = []
        self.main.state.clear()
        self.isolated = {}
        for group in saved["main"]["meta"]["groups"][1:]:
            self.main.add_param_group({"params": _named(names, group["params"]), **_late(group)})
        for key, part in saved.items():
            if key != "main":
                groups = [{"params": _named(names, g["params"]), **_late(g)} for g in part["meta"]["groups"]]
                self.isolated[key] = self.factory(groups)
        for label, part in saved.items():
            optimizer = self.main if label == "main" else self.isolated[label]
            load_named_state(optimizer, list(names.items()), part["tensors"], part["meta"])


def _named(names: Mapping[str, nn.Parameter], wanted: Sequence[str]) -> list[nn.Parameter]:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CheckpointError(f"the saved optimiser has parameters the model lacks: {', '.join(missing)}")
    return [names[name] for name in wanted]


def _late(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("name", "base_lr", "born_step", "warmup_steps") if name in group}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
