"""The host's forward in training, compiled where asked and where it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import MorphableModel
from esper.kasmina.model_buffers import preserve_buffers
from esper.utils.device_and_rng import restore_rng_state, rng_state


def compile_obstacle(aggregates: bool, has_objectives: Callable[[], bool]) -> str | None:
    """Why the forward is not to be compiled: a compiled graph can be differentiated only once."""
    if not aggregates or not has_objectives():
        return None
    return "several objectives take several backward passes, and a compiled graph allows one"


class TrainingForward:
    """Calls the model; with `compile_model`, full batches go through one compiled graph.

    Batches of another size, evaluation, and steps with a seed in isolation (which listens to the
    backward pass by tensor hooks, and those break graphs) run eagerly: so nothing recompiles but
    after a structural event. A failed compile is reported once through `on_fallback` and leaves the
    run on the eager path, with the same numbers; so does an `obstacle`, a reason not to try at all. The
    model itself is not changed.
    """

    def __init__(
        self,
        model: MorphableModel,
        *,
        compile_model: bool,
        backend: str,
        batch_size: int,
        on_fallback: Callable[[str], None],
        obstacle: str | None = None,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.on_fallback = on_fallback
        self.listening = False
        self._fresh = True
        self._graph: Callable[..., Any] | None = None
        self._obstacle = obstacle if compile_model else None
        if compile_model and obstacle is None:
            self._graph = torch.compile(model.forward, fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, samples: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The output for a batch of so many samples; counted as one forward of the model."""
        if self._obstacle is not None:
            self.on_fallback(self._obstacle)
            self._obstacle = None
        if self._graph is None:
            return self.model(*args, **kwargs)
        self.model.count_forward()
        if samples == self.batch_size and not self.listening:
            try:
                if self._fresh:
                    self._rehearse(self._graph, args, kwargs)
                return self._graph(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - dynamo and its back ends raise anything
                self._give_up(error)
        return self.model.forward(*args, **kwargs)

    def _rehearse(self, graph: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Compile forward and backward on a batch, and leave no trace of it.

        Back ends compile the backward only when it is first run; by then it would be too late to turn back.
        """
        generators = rng_state()
        try:
            with preserve_buffers(self.model):
                roots = [t.sum() for t in tensors(graph(*args, **kwargs)) if t.requires_grad]
                if roots:
                    params = [p for p in self.model.parameters() if p.requires_grad]
                    torch.autograd.grad(torch.stack(roots).sum(), params, allow_unused=True)
        finally:
            restore_rng_state(*generators)
        self._fresh = False

    def _give_up(self, error: Exception) -> None:
        self._graph = None
        # dynamo's own first line names the back end, the second one says what it raised
        what = " ".join(str(error).split("\n")[:2]).strip()
        self.on_fallback(f"{type(error).__name__}: {what}")

    def topology_changed(self, *, listening: bool) -> None:
        """Forget compiled code: the forward is another one now."""
        self.listening = listening
        if self._graph is not None:
            torch.compiler.reset()
            self._fresh = True


def tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in a model's output, whatever its form."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
