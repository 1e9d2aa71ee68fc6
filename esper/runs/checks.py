"""What only the machine can tell about a configuration, found out before any folder is made."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from torch import nn

from esper.config import TolariaConfig, aliases
from esper.config.messages import error_message, nearest_name
from esper.config.serialization import as_given
from esper.config.targets import (
    HYDRA_PACKAGES,
    TARGET,
    allowed_text,
    is_within,
    leftover_problems,
    name_problems,
    nested_targets,
)
from esper.data import DataInfo, Datasets, inspect_data
from esper.errors import EsperError, GrowthError
from esper.kasmina import blueprint_names, host_problems, match_layers
from esper.runs import builder
from esper.runs.extensions import extension_problems, trainer_class
from esper.runs.path_checks import path_problems
from esper.runs.pretrained import weight_problems
from esper.runs.resolver import Resolver, find_object
from esper.tolaria.checkpoint.discovery import find_config
from esper.tolaria.optimization.lr_schedule import Horizon
from esper.utils.device_and_rng import resolve_device, restore_rng_state, rng_state
from esper.utils.files import nearest_existing

_LOGGING = ("colorlog", "logging", "rich")
_HYDRA_KINDS: Mapping[str, type] = {"callbacks": Callback, "launcher": Launcher, "sweeper": Sweeper}


def check_run(
    config: TolariaConfig, *, model: nn.Module | None = None, datasets: Datasets | None = None
) -> list[str]:
    """A sentence for each thing that would stop a run: options, targets, data, device, model, paths.

    `model` and `datasets` take the place of what the configuration names. Builds what can be built cheaply
    and throws it away; no file is written, random numbers stay where they were. What one option breaks is
    not reported again for those that depend on it.
    """
    found = [*config.validate(), *path_problems(config)]
    if datasets is not None:  # the name is that of their class, which need not be allowed or found
        found = [text for text in found if not text.startswith("dataset.name: ")]
    broken = {re.split(r"[.:]", text, maxsplit=1)[0] for text in found}
    with _untouched_generators():
        for groups, check in _CHECKS:
            if broken.isdisjoint(groups):
                found += _attempt(check, config)
        if broken.isdisjoint({"model", "dataset", "allowed_targets"}):
            found += _attempt(_model_problems, config, model, datasets)
    return list(dict.fromkeys(as_given(config, found)))


def check_hydra(hydra: Mapping[str, Any], allowed_targets: Sequence[str]) -> list[str]:
    """A sentence for each forbidden target in Hydra's own callbacks, launcher, sweeper and logging."""
    found: list[str] = []
    for part, data in hydra.items():
        for key, target in nested_targets(data, f"hydra.{part}"):
            found += _hydra_target(key, target, _HYDRA_KINDS.get(part), allowed_targets)
        if part.endswith("logging"):
            found += _logging_problems(data, f"hydra.{part}")
        else:
            found += leftover_problems(data, f"hydra.{part}")
    return found


def _attempt(check: Callable[..., list[str] | None], *arguments: Any) -> list[str]:
    try:
        return check(*arguments) or []
    except EsperError as error:
        return str(error).splitlines()
    except OSError as error:
        return [f"{error.filename}: {error.strerror}; expected a path that can be opened"]


@contextmanager
def _untouched_generators() -> Iterator[None]:
    state = rng_state()
    try:
        yield
    finally:
        restore_rng_state(*state)


def _device(config: TolariaConfig) -> None:
    resolve_device(config.device)


def _optimizer(config: TolariaConfig) -> None:
    parameter = nn.Parameter(torch.zeros(2, 2))
    builder.optimizer_factory(config)([{"params": [parameter]}])


def _schedule(config: TolariaConfig) -> None:
    builder.schedule_factory(config)(Horizon(total_steps=10, steps_per_epoch=5))


def _loss(config: TolariaConfig) -> None:
    builder.build_loss(config)


def _metric(config: TolariaConfig) -> None:
    builder.build_metric(config)


def _aggregator(config: TolariaConfig) -> None:
    builder.build_aggregator(config)


def _policy(config: TolariaConfig) -> None:
    builder.build_policy(config)


def _batch_form(config: TolariaConfig) -> None:
    builder.build_batch_form(config)


def _trainer(config: TolariaConfig) -> None:
    trainer_class(config)


def _blueprints(config: TolariaConfig) -> list[str]:
    builder.register_blueprints(config)
    known = blueprint_names()
    wrong = [name for name in config.morphogenetic.blueprints if name not in known]
    expected = f"blueprints out of {', '.join(known)}"
    return [
        error_message("morphogenetic.blueprints", name, expected, nearest_name(name, known)) for name in wrong
    ]


def _checkpoint(config: TolariaConfig) -> list[str]:
    resume = config.checkpoint.resume_from_checkpoint
    if resume is None or resume == "auto":
        return []
    try:
        find_config(Path(resume))
    except EsperError as error:
        expected = f"a checkpoint or a run folder ({' '.join(str(error).split())})"
        return [error_message("checkpoint.resume_from_checkpoint", resume, expected)]
    return []


def _run_folder(config: TolariaConfig) -> list[str]:
    if config.run_dir is None:
        return []
    folder = Path(config.run_dir)
    above = nearest_existing(folder.absolute())
    if os.access(above, os.W_OK | os.X_OK):
        return []
    return [
        error_message("run_dir", str(folder), f"a folder that can be written to ({above} is not writable)")
    ]


def _model_problems(config: TolariaConfig, model: nn.Module | None, datasets: Datasets | None) -> list[str]:
    info = _data_info(config, datasets)
    builtin = model is None and config.model.architecture in aliases.MODELS
    if model is None:
        # a model of the user's own may compute with its weights while it is made, which meta tensors cannot
        with torch.device("meta") if builtin else nullcontext():
            model = builder.make_model(config, info)
        if isinstance(config.model.pretrained, str):
            found = weight_problems(model, Path(config.model.pretrained))
            if found:
                return found
    try:
        layers = match_layers(model, config.model.target_layers)
    except GrowthError as error:
        return [
            error_message("model.target_layers", config.model.target_layers, f"layers of the model ({error})")
        ]
    # ours have no values yet, to be made quickly, and nothing that could not be saved
    unfit = [] if builtin else [f"model: {sentence}" for sentence in host_problems(model)]
    return [*unfit, *_plan_problems(config, layers)]


def _plan_problems(config: TolariaConfig, layers: Sequence[str]) -> Iterator[str]:
    """A plan that names what is not there would fail at its time, hours into a run."""
    if config.morphogenetic.policy.get(TARGET) not in ("scheduled", aliases.POLICIES["scheduled"]):
        return
    builder.register_blueprints(config)
    known = blueprint_names()
    for planned in builder.build_policy(config).plan:
        key = "morphogenetic.policy.seeds"
        if planned.layer not in layers:
            expected = "a layer that model.target_layers selects"
            yield error_message(f"{key}.layer", planned.layer, expected, nearest_name(planned.layer, layers))
        if planned.blueprint not in known:
            expected = f"one of {', '.join(known)}"
            yield error_message(
                f"{key}.blueprint", planned.blueprint, expected, nearest_name(planned.blueprint, known)
            )


def _fit_problems(config: TolariaConfig) -> list[str]:
    """Whether the loss takes a classifier's scores and the numbers of classes."""
    if config.dataset.name not in aliases.DATASETS or config.model.architecture not in aliases.MODELS:
        return []
    classes = builder.class_count(config, inspect_data(config.dataset))
    if classes is None:
        return []
    scores, numbers = torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64)
    try:
        with warnings.catch_warnings(action="error"):
            builder.build_loss(config)(scores, numbers)
    except EsperError:
        raise
    except Exception as error:  # noqa: BLE001 - a loss of the user's own may raise anything
        kind = "" if isinstance(error, Warning) else f"{type(error).__name__}: "
        reason = shorten(f"{kind}{error}".partition(". ")[0], 120)
        expected = f"a loss of scores (batch, {classes}) and class numbers (batch) ({reason})"
        return [error_message("optimization.loss_function", config.optimization.loss_function, expected)]
    return []


def _data_info(config: TolariaConfig, datasets: Datasets | None) -> DataInfo:
    if datasets is None and config.dataset.name in aliases.DATASETS:
        return inspect_data(config.dataset)
    # nothing is known of a dataset of the user's own before it is opened
    return builder.build_dataset(config, seed=config.seed, device=torch.device("cpu"), datasets=datasets).info


def _hydra_target(key: str, target: Any, kind: type | None, allowed: Sequence[str]) -> list[str]:
    found = name_problems(key, target, (*HYDRA_PACKAGES, *allowed))
    if found:
        return found
    try:
        if is_within(target, allowed):
            Resolver(allowed).locate(key, target)
            return []
        made = find_object(key, target)
    except EsperError as error:
        return str(error).splitlines()
    if kind is not None and isinstance(made, type) and issubclass(made, kind):
        return []
    return [error_message(key, target, allowed_text((*HYDRA_PACKAGES, *allowed)))]


def _logging_problems(data: Any, key: str) -> list[str]:
    """Hydra's logging can name classes and factories, too."""
    if not isinstance(data, Mapping):
        return []
    found = []
    for name, value in data.items():
        if name in ("()", "class") and not is_within(str(value), _LOGGING):
            found.append(error_message(f"{key}.{name}", value, f"a name in one of {', '.join(_LOGGING)}"))
        found += _logging_problems(value, f"{key}.{name}")
    return found


_ANYWHERE = {"allowed_targets"}
_CHECKS: tuple[tuple[set[str], Callable[[TolariaConfig], list[str] | None]], ...] = (
    ({"device"}, _device),
    ({"optimization"} | _ANYWHERE, _optimizer),
    ({"optimization"} | _ANYWHERE, _schedule),
    ({"optimization"} | _ANYWHERE, _loss),
    ({"optimization", "dataset", "model"} | _ANYWHERE, _fit_problems),
    ({"optimization"} | _ANYWHERE, _metric),
    ({"trainer"} | _ANYWHERE, _aggregator),
    ({"morphogenetic"} | _ANYWHERE, _policy),
    ({"morphogenetic"}, _blueprints),
    ({"dataset"} | _ANYWHERE, _batch_form),
    ({"trainer"} | _ANYWHERE, _trainer),
    ({"callbacks", "logging"} | _ANYWHERE, extension_problems),
    ({"checkpoint"}, _checkpoint),
    ({"run_dir"}, _run_folder),
)
