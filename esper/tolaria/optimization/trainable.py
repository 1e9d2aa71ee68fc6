"""The trainable parameters of a run: those of the model, and those of the loss as `loss.<name>`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.config.messages import error_message
from esper.errors import ConfigError
from esper.kasmina import MorphableModel

LOSS = "loss"
# The prefix of the host's parameters in the wrapped model; messages omit it: the user's model has none.
_HOST = "host."


class Trainable:
    """The parameters by name, and a check that they are still those of the start.

    Seeds change with the topology. The parameters of host and loss must keep their names and shapes, because
    a checkpoint is loaded into a newly built host and loss.

    Args:
        model: the growing model.
        loss: the loss function; only a module has parameters.

    Raises:
        ConfigError: a lazy parameter is not initialised, or a trainable tensor is not a parameter.
    """

    def __init__(self, model: MorphableModel, loss: Any = None) -> None:
        self.model = model
        self.loss = loss if isinstance(loss, nn.Module) else None
        for module, option in ((model.host, "model.architecture"), (loss, "optimization.loss_function")):
            check_tensors(module, option)
        self._shapes = self._fixed_shapes()

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters, trainable or not; one shared by loss and model has the model's name."""
        found = list(self.model.named_parameters())
        if self.loss is not None:
            of_model = {id(parameter) for _, parameter in found}
            of_loss = self.loss.named_parameters()
            found += [(f"{LOSS}.{name}", p) for name, p in of_loss if id(p) not in of_model]
        return found

    def loss_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the loss that the model does not share."""
        return [p for name, p in self.named() if name.startswith(f"{LOSS}.") and p.requires_grad]

    def required(self) -> list[nn.Parameter]:
        """All parameters that require a gradient now."""
        return [p for _, p in self.named() if p.requires_grad]

    def check(self) -> None:
        """Raise `ConfigError` if parameters of host or loss were added, removed or reshaped."""
        now = self._fixed_shapes()
        differing = [n for n in {**self._shapes, **now} if self._shapes.get(n) != now.get(n)]
        if not differing:
            return
        name = differing[0]
        what = "is new" if name not in self._shapes else "has another shape" if name in now else "was removed"
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        is_loss = name.startswith(f"{LOSS}.")
        option = "optimization.loss_function" if is_loss else "model.architecture"
        given = type(self.loss if is_loss else self.model.host).__name__
        shown = name.removeprefix(_HOST)
        expected = (
            f"the same parameters throughout training: {shown}{more} {what}, and a checkpoint could not be "
            "resumed; make them in __init__, or register them there as lazy ones or None"
        )
        raise ConfigError(error_message(option, given, expected))

    def _fixed_shapes(self) -> dict[str, tuple[int, ...]]:
        fixed = (f"{LOSS}.", _HOST)
        return {name: tuple(p.shape) for name, p in self.named() if name.startswith(fixed)}

    # -- freezing --------------------------------------------------------------------------------

    def frozen(self) -> list[str]:
        """The names of the frozen parameters."""
        return [name for name, p in self.named() if not p.requires_grad]

    def freeze_only(self, names: Sequence[str]) -> Callable[[], None]:
        """Freeze exactly these parameters; returns a function that undoes it."""
        before = [(p, p.requires_grad) for _, p in self.named()]
        chosen = set(names)
        for name, parameter in self.named():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(name not in chosen)

        def undo() -> None:
            for parameter, required in before:
                parameter.requires_grad_(required)

        return undo


def check_tensors(owner: Any, option: str) -> None:
    """Raise `ConfigError` if a trainable tensor of a module or a loss is not an initialised parameter."""
    for name, reason in _unsupported(owner):
        given = type(owner).__name__
        raise ConfigError(
            error_message(option, given, f"every trainable tensor as a parameter: {name} {reason}")
        )


def _unsupported(owner: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(owner, nn.Module):
        yield from _unreachable(owner)
        return
    for path, module in owner.named_modules():
        for leaf, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
                yield _join(path, leaf), "is a tensor that requires a gradient; make it an nn.Parameter"
    for name, parameter in owner.named_parameters():
        if is_lazy(parameter):
            yield name, "is lazy, and a forward in eval mode has not initialised it"


def _unreachable(owner: Any) -> Iterator[tuple[str, str]]:
    """Trainable modules and tensors of a loss that is not a module: no optimiser would get them."""
    held = {**getattr(owner, "keywords", {}), **getattr(owner, "__dict__", {})}
    for name, value in held.items():
        if isinstance(value, nn.Module):
            trains = any(p.requires_grad for p in value.parameters())
        else:
            trains = isinstance(value, torch.Tensor) and value.requires_grad
        if trains:
            yield name, "belongs to a loss that is not a torch.nn.Module; make it one"


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf
