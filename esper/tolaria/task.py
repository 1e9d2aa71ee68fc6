"""The task apart from the model: how a batch is read and how loss and accuracy are summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.tolaria.loss.accuracy import Accuracy
from esper.tolaria.loss.divisors import BatchWeight
from esper.tolaria.loss.objectives import CombineLosses, Losses, sum_losses, total_loss
from esper.tolaria.loss.running_mean import RunningMean

BatchAdapter = Callable[[Any], tuple[tuple[Any, ...], Mapping[str, Any], Any]]


def pair_adapter(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    """The usual batch, (inputs, targets): the model is called with the inputs alone."""
    inputs, targets = batch
    return (inputs,), {}, targets


def batch_length(targets: Any) -> int:
    """Number of samples in a batch's targets."""
    if isinstance(targets, Tensor):
        return targets.shape[0] if targets.dim() else 1
    if isinstance(targets, Mapping):
        return batch_length(next(iter(targets.values())))
    if isinstance(targets, Sequence) and targets and isinstance(targets[0], Tensor):
        return batch_length(targets[0])
    return len(targets)


def targets_to(targets: Any, output: Any) -> Any:
    """The targets on the output's device if both are tensors: a model may be spread over two devices."""
    if isinstance(targets, Tensor) and isinstance(output, Tensor) and targets.device != output.device:
        return targets.to(output.device, non_blocking=True)
    return targets


class BatchMetric(Protocol):
    """Counts every micro-batch of a step; without a `weight` its loss is the mean over its samples."""

    def add(
        self, losses: Losses, output: Any, targets: Any, samples: int, weight: BatchWeight | None = None
    ) -> None: ...


class RunningMetrics:
    """Sums of loss, divisors and right answers, kept on the device until they are read.

    If a loss has several objectives, `combine_losses` makes one loss of them, and each is summed as well.
    """

    def __init__(
        self,
        device: torch.device,
        combine_losses: CombineLosses = sum_losses,
        accuracy: Accuracy | None = None,
    ) -> None:
        self.combine_losses = combine_losses
        self.accuracy = accuracy or Accuracy()
        self.loss = RunningMean(device)
        self.named: dict[str, RunningMean] = {}
        self.hits = RunningMean(device, torch.int64)
        self.samples = 0

    def add(
        self, losses: Losses, output: Any, targets: Any, samples: int, weight: BatchWeight | None = None
    ) -> None:
        """Count one batch of `samples`, of which `losses` are means; nothing waits for the device."""
        weight = weight or BatchWeight(samples)
        if isinstance(losses, Mapping):
            for name, loss in losses.items():
                self.named.setdefault(name, RunningMean(self.loss.device)).add(loss, weight)
        self.loss.add(total_loss(losses, self.combine_losses), weight)
        self.samples += samples
        counted = self.accuracy.count(output, targets)
        if counted is not None:
            hits, answers = counted
            self.hits.add(hits, BatchWeight(answers, summed=True))

    def objectives(self) -> dict[str, float]:
        """The mean of each objective over the batches that had it; empty if the loss is one number."""
        return {name: mean.read() for name, mean in self.named.items()}

    def read(self) -> tuple[float, float | None]:
        """Mean loss and accuracy so far: NaN if nothing was counted; accuracy is None if there is none."""
        accuracy = self.hits.read()
        return self.loss.read(), None if math.isnan(accuracy) else accuracy

    def reset(self) -> None:
        """Set all sums to zero."""
        self.loss.reset()
        self.hits.reset()
        self.samples = 0
        self.named.clear()

    def state_dict(self) -> dict[str, Any]:
        state = {"loss": self.loss.total, "hits": self.hits.total, "samples": self.samples}
        named = {name: mean.total for name, mean in self.named.items()}
        counts = {name: mean.units for name, mean in self.named.items()}
        return {
            **state,
            "judged": self.hits.units,
            "units": self.loss.units,
            "objectives": named,
            "objective_samples": counts,
            "weighted": {
                "loss": self.loss.weighted(),
                "hits": self.hits.weighted(),
                "objectives": {name: mean.weighted() for name, mean in self.named.items()},
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weighted = state.get("weighted", {})
        self.samples = state["samples"]
        self.loss.load(state["loss"], state.get("units", self.samples), weighted.get("loss"))
        self.hits.load(state["hits"], state["judged"], weighted.get("hits"))
        self.named = {name: RunningMean(self.loss.device) for name in state["objectives"]}
        for name, mean in self.named.items():
            parts = weighted.get("objectives", {}).get(name)
            mean.load(state["objectives"][name], state["objective_samples"][name], parts)
