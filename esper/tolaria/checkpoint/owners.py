"""Registers the owners of a run's state, in the order in which they are restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.tolaria.checkpoint import Generators, StateRegistry

if TYPE_CHECKING:
    from esper.tolaria.wiring import RunWiring


def register_owners(run: RunWiring) -> StateRegistry:
    """A registry with every owner of state of the loop; recovery registers its own.

    The model comes first: loading it attaches its seeds, and later owners refer to their parameters.
    """
    state = StateRegistry()
    state.register("model", run.model, use="copies")
    if not run.loss_state.empty:
        # absent in checkpoints of earlier versions: the loss then keeps its initial state
        state.register("loss", run.loss_state, use="copies", optional=True)
    state.register("optimizers", run.optimizers, use="copies")
    state.register("rebuilds", run.optimizers.rebuilds)
    state.register("schedule", run.schedule)
    state.register("scaler", run.precision)
    state.register("attribution", run.attribution, use="copies")
    state.register("meter", run.meter, use="copies")
    state.register("run", run)
    state.register("best", run.best, use="reads")
    state.register("generators", Generators(), use="copies")
    if run.tasks is not None:
        state.register("gradients", run.tasks, use="copies")
    if run.growth is not None:
        _register_growth(run, state)
    if run.components.callbacks.callbacks:
        state.register("callbacks", run.components.callbacks)
    return state


def _register_growth(run: RunWiring, state: StateRegistry) -> None:
    assert run.growth is not None
    state.register("seeds", run.seeds)
    state.register("flops", run.flops)
    if run.config.checkpoint.save_morphogenetic_state:
        state.register("history", run.history)
        state.register("control", run.growth.controller)
        state.register("growth", run.growth)
        if run.growth.monitor is not None:
            state.register("health", run.growth.monitor)
