"""Broken builds for R14: what is not finite is not noticed, or the rollback is not whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from faults.harness.firing import broken

from esper.kasmina import MorphableModel
from esper.tolaria.checkpoint.registry import CollectedState
from esper.tolaria.optimization.optimizer_manager import OptimizerManager
from esper.tolaria.recovery import guard
from esper.tolaria.recovery.divergence import DivergenceDetector
from esper.tolaria.recovery.guard import DivergenceGuard


@contextmanager
def unwatched() -> Iterator[None]:
    """Neither losses nor weights are judged."""
    with broken(DivergenceDetector, "check", lambda *_: ""), broken(guard, "non_finite_names", lambda _: []):
        yield


def snapshot_not_copied() -> AbstractContextManager[None]:
    """A snapshot holds the tensors themselves, which train on."""
    return broken(CollectedState, "copy", lambda collected, into=None: dict(collected.tensors))


def optimisers_not_restored() -> AbstractContextManager[None]:
    """The main optimiser keeps the first moments that the undone steps have left."""
    load = OptimizerManager.load_state_dict

    def all_but_moments(optimizers: OptimizerManager, saved: Mapping[str, Any]) -> None:
        before = {id(param): state["exp_avg"].clone() for param, state in optimizers.main.state.items()}
        load(optimizers, saved)
        for param, state in optimizers.main.state.items():
            if id(param) in before:
                state["exp_avg"].copy_(before[id(param)])

    return broken(OptimizerManager, "load_state_dict", all_but_moments)


def running_statistics_kept() -> AbstractContextManager[None]:
    """The running statistics of batch norm stay as the undone steps have left them."""
    load = MorphableModel.load_state_dict

    def all_but_statistics(
        model: MorphableModel, state: Mapping[str, Any], *args: Any, **options: Any
    ) -> Any:
        own = {name: b.clone() for name, b in model.host.named_buffers() if name.endswith("running_var")}
        result = load(model, state, *args, **options)
        for name, buffer in model.host.named_buffers():
            if name in own:
                buffer.copy_(own[name])
        return result

    return broken(MorphableModel, "load_state_dict", all_but_statistics)


def governor_not_restored() -> AbstractContextManager[None]:
    """The history that losses are judged by still has those of the undone steps."""
    return broken(DivergenceGuard, "load_state_dict", lambda *_: None)
