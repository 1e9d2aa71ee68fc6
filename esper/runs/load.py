"""Loads the best model of a run, grown as it was saved."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.config import TolariaConfig
from esper.config.aliases import MODELS
from esper.data import DataInfo
from esper.errors import CheckpointError, ConfigError
from esper.kasmina import MorphableModel, wrap
from esper.runs.builder import build_model, make_model, register_blueprints
from esper.runs.outputs import read_model
from esper.runs.staleness import why_behind
from esper.tolaria.best_model import best_weights
from esper.tolaria.checkpoint import find_and_load
from esper.utils.device_and_rng import restore_rng_state, rng_state

_OWN_MODEL = "a run with a model of your own is loaded with load(..., model=...)"


def load(
    run: str | Path, *, model: nn.Module | None = None, allowed_targets: Sequence[str] = ()
) -> MorphableModel:
    """Load the best model of a run, grown as it was saved.

    No data and no other weights are read, and the global generators are restored. A checkpoint is verified by
    its hashes; a single file only states that it is complete. Where the run reached a later epoch than its
    last good checkpoint, a warning names both.

    Args:
        run: A run folder, a checkpoint, or the file of a final model.
        model: The host, where it was passed to the trainer and so cannot be built from the configuration.
        allowed_targets: Modules of yours that the saved configuration may name; a checkpoint cannot allow
            them itself.

    Returns:
        The model, on the CPU, in eval mode; its forward takes and returns what the host's does.

    Raises:
        CheckpointError: The run is missing, damaged or does not fit the model.

    Example:
        >>> model = load("outputs/2026-01-31/12-00-00.000000")  # doctest: +SKIP
        >>> model(images).argmax(dim=1)  # doctest: +SKIP
    """
    path, state, saved, data = _read(Path(run))
    config = TolariaConfig.from_checkpoint(saved, allowed_targets)
    register_blueprints(config)
    try:
        if model is None:
            _refuse_giant(path, config, data, state)
        host = model if model is not None else _host(config, data)
    except ConfigError as error:
        raise ConfigError([*error.problems, _OWN_MODEL]) from error
    m = config.model
    try:
        grown = wrap(host, m.target_layers, m.seeds_per_layer, preserve_original=m.preserve_original)
        grown.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        fault = f"its own configuration; {_OWN_MODEL}" if model is None else "the model that was given"
        raise CheckpointError(f"{path} does not fit {fault} ({error})") from error
    return grown.eval()


def _read(path: Path) -> tuple[Path, dict[str, Tensor], Mapping[str, Any], Mapping[str, Any]]:
    """Where it was found, the best model's state dict, the run's configuration and data."""
    if path.is_file() and path.suffix == ".safetensors":
        return path, *read_model(path)
    _, checkpoint = find_and_load(path)
    if older := why_behind(path, checkpoint):
        warnings.warn(older, stacklevel=3)
    run = checkpoint.state["run"]
    return checkpoint.path, best_weights(checkpoint), run["config"], run["data"]


def _host(config: TolariaConfig, data: Mapping[str, Any]) -> nn.Module:
    """The bare host of a saved model; what weights it starts with does not matter."""
    info = DataInfo(**_with_tuples(data))
    generators = rng_state()
    try:
        return build_model(replace(config, model=replace(config.model, pretrained=False)), info)
    finally:
        restore_rng_state(*generators)


def _refuse_giant(
    path: Path, config: TolariaConfig, data: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """A host that is larger than what was saved is not even made: its size could be anything."""
    if config.model.architecture not in MODELS:
        return  # a model of the user's own may compute with its weights while it is made
    with torch.device("meta"):
        asked = make_model(config, DataInfo(**_with_tuples(data)))
    wanted = sum(p.numel() for p in asked.parameters())
    saved = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if wanted > saved:
        raise CheckpointError(f"{path} does not fit a model of {wanted:,} parameters: it holds {saved:,}")


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
