"""The host's forward in training, compiled where asked and where it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from esper.core.runtime import restore_rng_state, rng_state
from esper.kasmina import MorphableModel


class TrainingForward:
    """Calls the model; with `compile_model`, full batches go through one compiled graph.

    Batches of another size, evaluation, and steps with a seed in isolation (which listens to the
    backward pass by tensor hooks, and those break graphs) run eagerly: so nothing recompiles but
    after a structural event. A failed compile is reported once through `on_fallback` and leaves the
    run on the eager path, with the same numbers: the graph is all or nothing, and generators are set back.
    """

    def __init__(
        self,
        model: MorphableModel,
        *,
        compile_model: bool,
        backend: str,
        batch_size: int,
        on_fallback: Callable[[str], None],
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.on_fallback = on_fallback
        self.compiling = compile_model
        self.listening = False
        self._fresh = True
        if compile_model:
            model.compile(fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, samples: int, args: tuple[Any, ...], kwargs: Any) -> Any:
        if not self.compiling:
            return self.model(*args, **kwargs)
        if samples != self.batch_size or self.listening:
            return self.eager(args, kwargs)
        return self._compiled(args, kwargs) if self._fresh else self.model(*args, **kwargs)

    def eager(self, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The same forward without the compiled graph; counted like any other."""
        self.model.count_forward()
        return self.model.forward(*args, **kwargs)

    def _compiled(self, args: tuple[Any, ...], kwargs: Any) -> Any:
        before = rng_state()
        try:
            output = self.model(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - dynamo and its back ends raise anything
            restore_rng_state(*before)
            self.compiling = False
            self.on_fallback(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
            return self.eager(args, kwargs)
        self._fresh = False
        return output

    def topology_changed(self, *, listening: bool) -> None:
        """Forget compiled code: the forward is another one now."""
        self.listening = listening
        if self.compiling:
            torch.compiler.reset()
            self._fresh = True
