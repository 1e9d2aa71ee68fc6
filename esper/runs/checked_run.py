"""A configuration that has passed every check: the only thing from which a run is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from torch import nn

from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.data import Datasets
from esper.errors import ConfigError, EsperError
from esper.runs.checks import check_run
from esper.runs.path_checks import why_no_folder
from esper.runs.resume import origin_problems
from esper.runs.unfinished import which_run
from esper.tolaria.checkpoint.discovery import find_config

OUTPUTS = Path("outputs")
_RESUME = "checkpoint.resume_from_checkpoint"


class _Seal:
    """Only `check` makes one, so that nothing else can build a `CheckedRun`."""


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A configuration and the folder of its run, as `check` has found them to be right.

    What other processes may change meanwhile is checked once more when the folder is locked.
    """

    config: TolariaConfig
    run_dir: Path
    seal: _Seal


def check(
    config: TolariaConfig,
    run_dir: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    datasets: Datasets | None = None,
    named: bool | None = None,
) -> CheckedRun:
    """Check options, targets, data, device, model, paths and the checkpoint that a run starts from.

    Args:
        config: Every option. In test mode, model, data and loss become those of the checkpoint.
        run_dir: The run's folder; None is `config.run_dir`, or a new one below `outputs`.
        model: The host network, in place of the configured architecture.
        datasets: Dataset objects, in place of the configured dataset.
        named: Whether the user has named the folder; None: where one is given. Without a name there is
            nothing to resume by `auto`.

    Raises:
        ConfigError: With a sentence for each problem.

    Example:
        >>> check(TolariaConfig.from_yaml("config.yaml")).run_dir  # doctest: +SKIP
    """
    if config.mode == "test" and config.checkpoint.resume_from_checkpoint is not None:
        config = _as_trained(config, config.checkpoint.resume_from_checkpoint)
    if datasets is not None:
        # what is saved names the data that the run has seen
        config = replace(config, dataset=replace(config.dataset, name=datasets.name))
    given = run_dir or config.run_dir
    folder = Path(given or _fresh_folder())
    named = given is not None if named is None else named
    problems = check_run(config, model=model, datasets=datasets)
    problems += _folder_problems(config, folder, named=named)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return CheckedRun(config, folder, _Seal())


def _folder_problems(config: TolariaConfig, folder: Path, *, named: bool) -> Iterator[str]:
    if config.checkpoint.resume_from_checkpoint == "auto" and not named:
        yield error_message(_RESUME, "auto", which_run(OUTPUTS, config))
    if reason := why_no_folder(folder):
        yield error_message("run_dir", str(folder), f"a path that can be opened ({reason})")
    else:
        yield from origin_problems(config, folder)


def _as_trained(config: TolariaConfig, wanted: str) -> TolariaConfig:
    """What a checkpoint is evaluated with: model, data, splits and loss as it was trained.

    Other splits would test it on what it has learnt from. Device, records, threads and where the data lies
    are those of `config`.
    """
    try:
        _, found = find_config(Path(wanted))
    except EsperError:
        return config  # `check_run` names what is wrong with the checkpoint
    saved = TolariaConfig.from_checkpoint(found, config.allowed_targets)
    same = saved.dataset.name == config.dataset.name
    root = config.dataset.data_root if same else saved.dataset.data_root
    return replace(
        saved,
        mode="test",
        device=config.device,
        dataset=replace(saved.dataset, data_root=root),
        checkpoint=config.checkpoint,
        logging=config.logging,
        trainer=config.trainer,
        callbacks=config.callbacks,
        run_dir=config.run_dir,
        dry_run=False,
        validate_only=False,
        profile_training=False,
    )


def _fresh_folder() -> Path:
    now = datetime.now()
    return OUTPUTS / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S.%f}"
