"""The state of a loss module: its parameters and buffers, saved beside the model's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.loss.objectives import LossFunction


class LossState:
    """The parameters, buffers and extra state of a user's loss module.

    Empty for torch's losses, whose state is only their configuration, and for functions. It is saved in
    checkpoints, with each state of the run and with the best model. It is not part of the model: neither the
    file of the final model nor the result of `esper.load` contains it.
    """

    def __init__(self, loss: LossFunction) -> None:
        own = isinstance(loss, nn.Module) and type(loss).__module__ != nn.modules.loss.__name__
        self.module = loss if own and isinstance(loss, nn.Module) else None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to save."""
        return not self.state_dict()

    @property
    def has_uninitialized(self) -> bool:
        """Whether a first forward will create parameters (lazy ones, or those registered as None)."""
        if self.module is None:
            return False
        announced = [p for part in self.module.modules() for p in part._parameters.values()]
        return any(p is None or is_lazy(p) for p in announced)

    def copy(self) -> dict[str, Any]:
        """A deep copy of the present state."""
        return copy.deepcopy({name: _detached(value) for name, value in self.state_dict().items()})

    def state_dict(self) -> dict[str, Any]:
        return {} if self.module is None else dict(self.module.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a saved state into the loss; buffers take the saved shapes.

        Raises:
            RuntimeError: parameters are missing, unknown or of another shape.
        """
        if self.module is None:
            return
        for name, value in state.items():
            if isinstance(value, Tensor):
                _fit_buffer(self.module, name, value)
        self.module.load_state_dict(dict(state))


@contextmanager
def evaluating(loss: Any) -> Iterator[None]:
    """Put a loss module into eval mode within the block, and restore the mode of each submodule after it."""
    module = loss.loss if isinstance(loss, Criterion) else loss
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _fit_buffer(module: nn.Module, name: str, saved: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    try:
        buffers = module.get_submodule(path)._buffers
    except AttributeError:
        return  # load_state_dict reports the unknown name
    if leaf not in buffers:
        return
    now = buffers[leaf]
    if now is None or now.shape != saved.shape:
        buffers[leaf] = torch.empty_like(saved, device=saved.device if now is None else now.device)
