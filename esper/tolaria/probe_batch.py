"""A few held-out samples on which shapes, health and FLOPs are measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from esper.config import SeedConfig
from esper.errors import ConfigError, GrowthError
from esper.kasmina import MorphableModel
from esper.kasmina.host_checks import where_raised
from esper.tolaria.batches import BatchSource
from esper.tolaria.loss.loss_state import evaluating
from esper.tolaria.loss.objectives import compute_loss, total_loss
from esper.tolaria.task import Task, batch_length, targets_to
from esper.utils.device_and_rng import seeded_rng


class ProbeBatch:
    """One small batch of validation samples, and passes over more of them; generators are restored."""

    def __init__(
        self,
        model: MorphableModel,
        batches: BatchSource,
        task: Task,
        config: SeedConfig,
        *,
        rng_seed: int,
    ) -> None:
        self.model = model
        self.batches = batches
        self.batch_adapter = task.batch_adapter
        self.loss_function = task.loss
        self.combine_losses = task.combine_losses
        self.precision = task.precision
        self.impact_samples = config.impact_samples
        self.device = task.device
        self.rng_seed = rng_seed
        self.batch = take_samples(next(iter(batches.batches(0))), config.probe_samples)
        args, kwargs, targets = self.batch_adapter(self.batch)
        self.samples = batch_length(targets)
        self._observe(args, kwargs)

    def _observe(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Pass the batch through the model; raises `ConfigError` with the module's name if that fails."""
        try:
            with seeded_rng(self.rng_seed, self.device), self.precision.autocast():
                self.model.observe(*args, **kwargs)
        except GrowthError as error:
            raise ConfigError(f"model: {error}") from error
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            where = where_raised(self.model.host, error)
            raise ConfigError(
                f"model: the first validation batch does not pass through {where} ({reason}); "
                "expected a model that takes what dataset.batch_form makes of a batch"
            ) from error

    def loss(self) -> Tensor:
        """The loss of the probe batch, from a forward in the model's current mode.

        A loss that is a module is in eval mode: a measurement must not update it.
        """
        args, kwargs, targets = self.batch_adapter(self.batch)
        loss_function = self.loss_function
        with seeded_rng(self.rng_seed, self.device), self.precision.autocast(), evaluating(loss_function):
            output = self.model.forward(*args, **kwargs)
            losses = compute_loss(loss_function, output, targets_to(targets, output))
            return total_loss(losses, self.combine_losses)

    def has_objectives(self) -> bool:
        """Whether the loss has several named objectives, from a forward in eval mode without gradients."""
        with torch.no_grad(), self.in_eval_mode():
            output, targets = self.forward()
            with self.precision.autocast(), evaluating(self.loss_function):
                return isinstance(compute_loss(self.loss_function, output, targets), Mapping)

    @contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Within the block the model is in eval mode; mode and generators are restored at its end."""
        training = self.model.training
        self.model.eval()
        try:
            with seeded_rng(self.rng_seed, self.device):
                yield
        finally:
            self.model.train(training)

    def forward(self, batch: Any = None) -> tuple[Any, Any]:
        """The model's output for the probe batch or another one, and the targets on the output's device."""
        args, kwargs, targets = self.batch_adapter(self.batch if batch is None else batch)
        with self.precision.autocast():
            output = self.model.forward(*args, **kwargs)
        return output, targets_to(targets, output)

    def held_out(self) -> Iterator[Any]:
        """A fresh pass over the samples that impact is measured on."""
        batches = iter(self.batches.batches(0))
        if not self.impact_samples:
            return batches
        return islice(batches, math.ceil(self.impact_samples / self.batches.batch_size))


def take_samples(batch: Any, samples: int) -> Any:
    """The first samples of a batch: a tensor, or a container of them."""
    if isinstance(batch, Tensor):
        return batch[:samples]
    if isinstance(batch, Mapping):
        return {key: take_samples(value, samples) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        items = [take_samples(value, samples) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch
