"""Training batches of one sample: a batch norm cannot train on a single value per channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from esper.config.messages import error_message
from esper.errors import ConfigError
from esper.kasmina import MorphableModel
from esper.tolaria.batches import Loader
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import BatchAdapter
from esper.utils.device_and_rng import seeded_rng

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def refuse_single_samples(
    model: MorphableModel,
    loader: Loader,
    batch_adapter: BatchAdapter,
    precision: Precision,
    device: torch.device,
) -> None:
    """Check that no batch norm has to train on batches of one sample.

    One forward in eval mode checks this, only if batches are that small. A batch norm over images or
    sequences trains on the several values that one sample has in each channel.

    Raises:
        ConfigError: training batches have one sample and a batch norm of `model` needs more.
    """
    if min(loader.batch_size, loader.num_samples) > 1:
        return
    name = _first_single(model, next(iter(loader.batches(1))), batch_adapter, precision, device)
    if name is not None:
        expected = (
            f"training batches of at least 2 samples (there are {loader.num_samples} in all): the batch norm "
            f"{name} gets one value per channel from a single sample; a layer norm works, or a batch norm  "
            "that is kept in eval mode"
        )
        raise ConfigError(error_message("dataset.batch_size", loader.batch_size, expected))


def _first_single(
    model: MorphableModel, batch: Any, batch_adapter: BatchAdapter, precision: Precision, device: torch.device
) -> str | None:
    """The name of the first batch norm that trains and gets a single value per channel."""
    found: list[str] = []
    was_training = model.training
    model.train()  # as in an epoch; a model may keep some of its batch norms in eval mode
    norms = {n: m for n, m in model.host.named_modules() if isinstance(m, _BATCH_NORM) and m.training}
    model.eval()
    handles = [
        module.register_forward_pre_hook(_record_single(name, found)) for name, module in norms.items()
    ]
    args, kwargs, _ = batch_adapter(batch)
    try:
        with torch.no_grad(), seeded_rng(0, device), precision.autocast():
            model.forward(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return found[0] if found else None


def _record_single(name: str, found: list[str]) -> Any:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0]
        if x.numel() == x.shape[1]:
            found.append(name)

    return hook
