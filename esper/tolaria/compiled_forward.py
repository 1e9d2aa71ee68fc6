"""The host's forward in training, compiled if configured and possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import MorphableModel
from esper.kasmina.model_buffers import preserve_buffers
from esper.utils.device_and_rng import restore_rng_state, rng_state


def compile_obstacle(aggregates: bool, has_objectives: Callable[[], bool]) -> str | None:
    """Why the forward must not be compiled, or None: a compiled graph can be differentiated only once."""
    if not aggregates or not has_objectives():
        return None
    return "several objectives take several backward passes, and a compiled graph allows one"


class TrainingForward:
    """Calls the model; with `compile_model`, full batches use one compiled graph.

    Batches of another size, evaluation and steps with a seed in isolation run eagerly: isolation uses tensor
    hooks in the backward pass, which break graphs. So only a change of topology causes a recompile.
    A failed compile is reported once through `on_fallback`; the run continues eagerly with the same
    numbers. An `obstacle`, a reason not to compile, is reported the same way. The model is not changed.
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
        self.has_hooks = False
        self._uncompiled = True
        self._graph: Callable[..., Any] | None = None
        self._obstacle = obstacle if compile_model else None
        if compile_model and obstacle is None:
            self._graph = torch.compile(model.forward, fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, samples: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The model's output for a batch of `samples` samples; counted as one forward of the model."""
        if self._obstacle is not None:
            self.on_fallback(self._obstacle)
            self._obstacle = None
        if self._graph is None:
            return self.model(*args, **kwargs)
        self.model.count_forward()
        if samples == self.batch_size and not self.has_hooks:
            try:
                if self._uncompiled:
                    self._warm_up(self._graph, args, kwargs)
                return self._graph(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - dynamo and its backends raise anything
                self._fall_back(error)
        return self.model.forward(*args, **kwargs)

    def _warm_up(self, graph: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Compile forward and backward on a batch and restore buffers and generators.

        Backends compile the backward when it first runs, which would be too late to fall back.
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
        self._uncompiled = False

    def _fall_back(self, error: Exception) -> None:
        self._graph = None
        # dynamo's first line names the backend, the second one what it raised
        reason = " ".join(str(error).split("\n")[:2]).strip()
        self.on_fallback(f"{type(error).__name__}: {reason}")

    def topology_changed(self, *, has_hooks: bool) -> None:
        """Drop compiled code after a change of the forward. `has_hooks`: a seed is in isolation."""
        self.has_hooks = has_hooks
        if self._graph is not None:
            torch.compiler.reset()
            self._uncompiled = True


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in a model's output: a tensor, a mapping or a sequence of them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
