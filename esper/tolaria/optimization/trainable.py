"""Which parameters of a run can be trained: those of the model, and those of the loss as `loss.<name>`."""

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
# How a parameter of the host begins its name in the wrapped model, which the user has never seen.
_HOST = "host."


class Trainable:
    """The parameters by name, and whether they are still the ones that the run began with.

    Seeds come and go with the topology. The parameters of host and loss keep their names and shapes: a
    checkpoint is loaded into a host and a loss that are built anew. Raises `ConfigError` for lazy parameters
    that a forward has not initialised, and for trainable tensors that are no parameters.
    """

    def __init__(self, model: MorphableModel, loss: Any = None) -> None:
        self.model = model
        self.loss = loss if isinstance(loss, nn.Module) else None
        for module, option in ((model.host, "model.architecture"), (loss, "optimization.loss_function")):
            check_tensors(module, option)
        self._shapes = self._fixed_shapes()

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter, trainable or not; one that the loss shares with the model is the model's."""
        found = list(self.model.named_parameters())
        if self.loss is not None:
            models = {id(parameter) for _, parameter in found}
            own = self.loss.named_parameters()
            found += [(f"{LOSS}.{name}", p) for name, p in own if id(p) not in models]
        return found

    def loss_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters that are the loss's own."""
        return [p for name, p in self.named() if name.startswith(f"{LOSS}.") and p.requires_grad]

    def required(self) -> list[nn.Parameter]:
        """Every parameter that can be trained now."""
        return [p for _, p in self.named() if p.requires_grad]

    def check(self) -> None:
        """Raise `ConfigError` where host or loss has gained, lost or reshaped parameters since the start."""
        now = self._fixed_shapes()
        differing = [n for n in {**self._shapes, **now} if self._shapes.get(n) != now.get(n)]
        if not differing:
            return
        name = differing[0]
        what = "is new" if name not in self._shapes else "has another shape" if name in now else "is gone"
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

    # -- what is frozen --------------------------------------------------------------------------

    def frozen(self) -> list[str]:
        """Names of the parameters that are not to be trained now."""
        return [name for name, p in self.named() if not p.requires_grad]

    def freeze_only(self, names: Sequence[str]) -> Callable[[], None]:
        """Make exactly these frozen; what is returned undoes it."""
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
    """Raise `ConfigError` for what `owner`, a module or a loss of any kind, could not be trained in."""
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
    """Modules and tensors that a loss holds which is no module: nothing would find them."""
    held = {**getattr(owner, "keywords", {}), **getattr(owner, "__dict__", {})}
    for name, value in held.items():
        if isinstance(value, nn.Module):
            trains = any(p.requires_grad for p in value.parameters())
        else:
            trains = isinstance(value, torch.Tensor) and value.requires_grad
        if trains:
            yield name, "belongs to a loss that is no torch.nn.Module; make it one"


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf
