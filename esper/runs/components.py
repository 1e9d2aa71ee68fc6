"""The parts of a run, from its configuration, its data and its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from esper.config import TolariaConfig
from esper.data import DataBundle
from esper.errors import ConfigError, GrowthError
from esper.kasmina import MorphableModel, wrap
from esper.runs.builder import (
    build_aggregator,
    build_batch_form,
    build_loss,
    build_metric,
    build_model,
    build_policy,
    optimizer_factory,
    schedule_factory,
)
from esper.tolaria.callbacks import Callback, Callbacks
from esper.tolaria.components import ProgressCallback, Records, TrainingComponents


def grow_host(config: TolariaConfig, data: DataBundle, model: nn.Module | None) -> MorphableModel:
    """The host that the configuration names, or `model` in its place, made growable.

    Raises `ConfigError` for one that cannot be.
    """
    m = config.model
    try:
        return wrap(
            build_model(config, data.info) if model is None else model,
            m.target_layers,
            m.seeds_per_layer,
            cache_size_mb=m.cache_size_mb,
            telemetry_enabled=m.telemetry_enabled,
            preserve_original=m.preserve_original,
            seed=config.seed,
        )
    except GrowthError as error:
        raise ConfigError(f"model: {error}") from error


def make_parts(
    config: TolariaConfig,
    model: MorphableModel,
    data: DataBundle,
    device: torch.device,
    *,
    records: Records,
    progress_callback: ProgressCallback,
    run_dir: Path,
    callbacks: Sequence[Callback] = (),
) -> TrainingComponents:
    """Everything that a run needs besides its configuration, ready to use on `device`."""
    loss = build_loss(config)
    growing = config.morphogenetic.tamiyo_enabled and config.mode == "train"
    return TrainingComponents(
        model=model,
        data=data.info,
        train=data.train,
        validation=data.validation,
        test=data.test,
        # class weights belong where the scores are
        loss=loss.to(device) if isinstance(loss, nn.Module) else loss,
        batch_adapter=build_batch_form(config),
        optimizer=optimizer_factory(config),
        schedule=schedule_factory(config),
        tamiyo=build_policy(config) if growing else None,
        device=device,
        records=records,
        progress_callback=progress_callback,
        run_dir=run_dir,
        aggregator=build_aggregator(config),
        metric=build_metric(config),
        callbacks=Callbacks(callbacks),
    )
