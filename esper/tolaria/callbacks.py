"""Callbacks: code of the user's own that is called at fixed points of a run, in the order of one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esper.errors import CheckpointError

if TYPE_CHECKING:
    from esper.kasmina import TopologyChange
    from esper.tolaria.loop import TrainingLoop


class Callback:
    """Observes a run. Override the hooks that you need; each is called on the thread that trains.

    A hook gets the `TrainingLoop`: `loop.model`, `loop.config`, `loop.progress` (step, epoch, batch) and
    `loop.optimizers.main` can be read. `loop.run_control.stop("why")` asks the run to save and end. An
    exception that a hook raises ends the run, as one in the model does. What `state_dict` returns is saved in
    every checkpoint and given back to `load_state_dict` on resume and rollback, so that a callback with
    counters continues exactly.

    Example:
        >>> class StopAt(Callback):
        ...     def __init__(self, accuracy: float) -> None:
        ...         self.accuracy = accuracy
        ...
        ...     def on_epoch_end(self, loop, metrics):
        ...         if metrics["val_accuracy"] >= self.accuracy:
        ...             loop.run_control.stop("accuracy reached")
        >>> TolariaTrainer(config, callbacks=[StopAt(0.99)])  # doctest: +SKIP
    """

    def on_train_start(self, loop: TrainingLoop) -> None:
        """Called once before the first step, after a checkpoint was restored where there is one.

        Args:
            loop: The run.
        """

    def on_step_end(self, loop: TrainingLoop) -> None:
        """Called after each optimiser step; `loop.progress.step` counts them from 1. Keep it cheap.

        Args:
            loop: The run.
        """

    def on_topology_change(self, loop: TrainingLoop, change: TopologyChange) -> None:
        """Called when a seed was added or removed and the optimiser has followed.

        Args:
            loop: The run.
            change: The modules that were added and removed, by the key of their seed.
        """

    def on_epoch_end(self, loop: TrainingLoop, metrics: Mapping[str, Any]) -> None:
        """Called after validation and growth, before the epoch's checkpoint is saved.

        Args:
            loop: The run.
            metrics: The epoch's line of `metrics.jsonl`: `epoch`, `train_loss`, `val_loss`, ...
        """

    def on_train_end(self, loop: TrainingLoop) -> None:
        """Called after the last epoch, or where the run was stopped; `loop.progress.stopped_by` says why.

        Args:
            loop: The run.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state to save. Empty by default.

        Returns:
            Names to tensors and to values that JSON can hold.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: The saved state.
        """


class Callbacks(Callback):
    """A list of callbacks as one; its state is that of all of them, by position and class.

    Args:
        callbacks: In the order in which they are called.

    Example:
        >>> Callbacks([Callback()]).state_dict()
        {'0-Callback': {}}
    """

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = list(callbacks)

    def on_train_start(self, loop: TrainingLoop) -> None:
        for callback in self.callbacks:
            callback.on_train_start(loop)

    def on_step_end(self, loop: TrainingLoop) -> None:
        for callback in self.callbacks:
            callback.on_step_end(loop)

    def on_topology_change(self, loop: TrainingLoop, change: TopologyChange) -> None:
        for callback in self.callbacks:
            callback.on_topology_change(loop, change)

    def on_epoch_end(self, loop: TrainingLoop, metrics: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(loop, metrics)

    def on_train_end(self, loop: TrainingLoop) -> None:
        for callback in self.callbacks:
            callback.on_train_end(loop)

    def state_dict(self) -> dict[str, Any]:
        return {name: callback.state_dict() for name, callback in self._named()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all.

        Args:
            state: The saved state.

        Raises:
            CheckpointError: The list is another one than was saved.
        """
        named = dict(self._named())
        if named.keys() != state.keys():
            raise CheckpointError(
                f"the run was saved with the callbacks {', '.join(state) or 'none'}, and has "
                f"{', '.join(named) or 'none'}; expected the same list"
            )
        for name, callback in named.items():
            callback.load_state_dict(state[name])

    def _named(self) -> list[tuple[str, Callback]]:
        return [(f"{number}-{type(each).__name__}", each) for number, each in enumerate(self.callbacks)]
