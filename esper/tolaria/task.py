"""What a run is about, apart from the model: how a batch is read, how an answer is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esper.tolaria.losses import Losses, LossFunction, Total, sum_losses

BatchForm = Callable[[Any], tuple[tuple[Any, ...], Mapping[str, Any], Any]]


def pair_form(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    """The usual batch, (inputs, targets): the model is called with the inputs alone."""
    inputs, targets = batch
    return (inputs,), {}, targets


def batch_length(targets: Any) -> int:
    """Number of samples that a batch's targets are for."""
    if isinstance(targets, Tensor):
        return targets.shape[0] if targets.dim() else 1
    if isinstance(targets, Mapping):
        return batch_length(next(iter(targets.values())))
    if isinstance(targets, Sequence) and targets and isinstance(targets[0], Tensor):
        return batch_length(targets[0])
    return len(targets)


def follow(targets: Any, output: Any) -> Any:
    """The targets, on the output's device where both are tensors: a model may be spread over two."""
    if isinstance(targets, Tensor) and isinstance(output, Tensor) and targets.device != output.device:
        return targets.to(output.device, non_blocking=True)
    return targets


def is_classification(output: Any, targets: Any) -> bool:
    """Whether accuracy makes sense: scores of shape (N, classes) against N class numbers."""
    return (
        isinstance(output, Tensor)
        and isinstance(targets, Tensor)
        and output.dim() == 2
        and targets.dim() == 1
        and not targets.is_floating_point()
    )


def per_sample(loss: LossFunction) -> Callable[[Any, Any], Tensor] | None:
    """The same loss, one value a sample; None where the loss cannot say it."""
    if not (isinstance(loss, nn.Module) and getattr(loss, "reduction", None) == "mean"):
        return None
    single = copy.copy(loss)
    single.training = False  # for evaluation only
    setattr(single, "reduction", "none")  # noqa: B010 - Module types its attributes as tensors

    def by_sample(output: Any, targets: Any) -> Tensor:
        values: Tensor = single(output, targets)
        return values.flatten(1).mean(dim=1) if values.dim() > 1 else values

    return by_sample


class Counts(Protocol):
    """Anything that is told of every batch of a step."""

    def add(self, losses: Losses, output: Any, targets: Any, samples: int) -> None: ...


class Meter:
    """Sums of loss and hits over samples, kept on the device until they are read.

    Where a loss has several objectives, `total` makes one number of them, and each is summed besides.
    """

    def __init__(self, device: torch.device, total: Total = sum_losses) -> None:
        self.total = total
        self.loss = torch.zeros((), device=device)
        self._named: dict[str, Tensor] = {}
        self._named_samples: dict[str, int] = {}
        self.hits = torch.zeros((), device=device, dtype=torch.int64)
        self.samples = 0
        self.judged = 0

    def add(self, losses: Losses, output: Any, targets: Any, samples: int) -> None:
        """Count one batch of `samples`, of which `losses` are means; nothing waits for the device."""
        if isinstance(losses, Mapping):
            self._add_named(losses, samples)
            loss = self.total(losses)
        else:
            loss = losses
        self.loss.add_(loss.detach().to(self.loss.device, non_blocking=True), alpha=samples)
        self.samples += samples
        if is_classification(output, targets):
            hits = (output.detach().argmax(dim=1) == targets).sum()
            self.hits += hits.to(self.hits.device, non_blocking=True)
            self.judged += samples

    def _add_named(self, losses: Mapping[str, Tensor], samples: int) -> None:
        for name, loss in losses.items():
            summed = self._named.setdefault(name, torch.zeros_like(self.loss))
            summed.add_(loss.detach().to(summed.device, non_blocking=True), alpha=samples)
            self._named_samples[name] = self._named_samples.get(name, 0) + samples

    def objectives(self) -> dict[str, float]:
        """The mean of each objective over the samples that had it; empty where the loss is one number."""
        return {name: summed.item() / self._named_samples[name] for name, summed in self._named.items()}

    def read(self) -> tuple[float, float | None]:
        """Mean loss and accuracy over the samples so far (NaN before the first; None where no accuracy)."""
        loss = self.loss.item() / self.samples if self.samples else float("nan")
        return loss, self.hits.item() / self.judged if self.judged else None

    def reset(self) -> None:
        """Begin anew."""
        self.loss.zero_()
        self.hits.zero_()
        self.samples = self.judged = 0
        self._named.clear()
        self._named_samples.clear()

    def state_dict(self) -> dict[str, Any]:
        named = {"objectives": self._named, "objective_samples": self._named_samples}
        counts = {"samples": self.samples, "judged": self.judged}
        return {"loss": self.loss, "hits": self.hits, **counts, **named}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loss.copy_(state["loss"])
        self.hits.copy_(state["hits"])
        self.samples, self.judged = state["samples"], state["judged"]
        self._named = {name: summed.to(self.loss, copy=True) for name, summed in state["objectives"].items()}
        self._named_samples = dict(state["objective_samples"])
