"""Esper as a library: train, serve, load, all without Hydra."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor, nn

from esper import runs as build
from esper.config import TolariaConfig
from esper.config import aliases as names
from esper.config.messages import error_message
from esper.data import DataInfo
from esper.errors import CheckpointError, ConfigError
from esper.kasmina import MorphableModel, wrap
from esper.leyline import FINISHED_BY
from esper.loggers.jsonl_reader import METRICS_FILE, read_jsonl
from esper.loggers.plots import figure_of
from esper.runs.builder import make_model
from esper.runs.job import Job
from esper.runs.outputs import read_model
from esper.runs.path_checks import why_no_folder
from esper.runs.resume import origin_problems
from esper.runs.staleness import why_behind
from esper.runs.unfinished import which_run
from esper.tolaria.best_model import best_weights
from esper.tolaria.callbacks import Callback
from esper.tolaria.checkpoint import find_and_load
from esper.tolaria.checkpoint.discovery import find_config
from esper.utils.device_and_rng import restore_rng_state, rng_state
from esper.utils.lock import FolderLock
from esper.utils.os_signals import exit_code, stop_on_signals
from esper.utils.stdout import print_flushed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUTS = Path("outputs")
RESUME = "checkpoint.resume_from_checkpoint"


class TolariaTrainer:
    """One training run; a trainer trains once.

    Args:
        config: Every option. It is checked at once.
        model: Replaces the configured architecture.
        run_dir: Where the run's folder is made; else `config.run_dir`, else `outputs/<date>/<time>`.
        console: Where the progress is printed; standard output by default.
        group: The sweep that the run belongs to, for loggers.
        name: The run's name within its group, for loggers.
        lock: The folder's lock if the caller holds it; else the run takes it.
        callbacks: Called in this order; see `esper.Callback`.

    Raises:
        ConfigError: With a sentence for each thing that is wrong with the configuration.

    Example:
        >>> trainer = TolariaTrainer(TolariaConfig.from_yaml("config.yaml"))  # doctest: +SKIP
        >>> trainer.run_training()["val_accuracy"]  # doctest: +SKIP
        >>> trainer.plot().savefig("run.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TolariaConfig,
        *,
        model: nn.Module | None = None,
        run_dir: str | Path | None = None,
        console: Console | None = None,
        group: str | None = None,
        name: str | None = None,
        lock: FolderLock | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if config.mode == "test" and config.checkpoint.resume_from_checkpoint is not None:
            config = _as_trained(config, config.checkpoint.resume_from_checkpoint)
        named = run_dir or config.run_dir
        self.run_dir = Path(named or _fresh_folder())
        problems = build.check_run(config, model=model)
        if config.checkpoint.resume_from_checkpoint == "auto" and named is None:
            problems.append(error_message(RESUME, "auto", which_run(OUTPUTS, config)))
        if reason := why_no_folder(self.run_dir):
            problems.append(
                error_message("run_dir", str(self.run_dir), f"a path that can be opened ({reason})")
            )
        else:
            problems += origin_problems(config, self.run_dir)
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        self.config = config
        self.job = Job(
            config,
            self.run_dir,
            model=model,
            console=console,
            group=group,
            name=name,
            lock=lock,
            callbacks=callbacks,
        )

    def run_training(self) -> dict[str, Any]:
        """Train, test, write the run folder; returns what `summary.json` holds.

        With `mode` "test" it is `run_test`. Raises `RuntimeError` for a second run, and `ConfigError` where
        the configuration says that nothing is to be run.
        """
        if self.config.mode == "test":
            return self.run_test()
        if self.config.dry_run or self.config.validate_only:
            raise ConfigError("dry_run or validate_only is set: call dry_run(), or nothing after the check")
        if self.job.run is not None or self.job.finished:
            raise RuntimeError("this trainer has run before; make a new one for another run")
        with self.job:
            return self.job.train()

    def run_test(self) -> dict[str, Any]:
        """Evaluate the checkpoint named by `checkpoint.resume_from_checkpoint` on the test set."""
        with self.job:
            return self.job.test()

    def dry_run(self) -> str:
        """Build everything, run one batch forward and backward; returns a description of the model."""
        with self.job:
            return self.job.dry_run()

    @property
    def model(self) -> MorphableModel:
        """The model; after `run_training` the best one. Raises `RuntimeError` before there is one."""
        if self.job.run is None:
            if self.job.finished:
                raise RuntimeError(f"the run was finished before: esper.load({str(self.run_dir)!r}) has it")
            raise RuntimeError("the model is built by run_training(); call that first")
        return self.job.run.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` so far, one dictionary an epoch; empty before the first."""
        return list(read_jsonl(self.run_dir / METRICS_FILE, skip_damaged=True))

    def plot(self) -> Figure:
        """Loss and accuracy, parameters and the seeds' stages by epoch, as a matplotlib figure.

        Raises:
            RecordError: Before the first epoch has ended, and where no metrics are recorded.
        """
        return figure_of(self.run_dir)

    def get_status(self) -> str:
        """One of: created, running, paused, stopped, finished, failed."""
        run = self.job.run
        if self.job.failed:
            return "failed"
        if run is None:
            return "finished" if self.job.finished else "created"
        if run.progress.stopped_by:
            return "finished" if run.progress.stopped_by in FINISHED_BY else "stopped"
        return "paused" if self.job.run_control.paused else "running"

    def get_detailed_status(self) -> dict[str, Any]:
        """The status with position, seeds and best result; may be called from any thread."""
        status: dict[str, Any] = {"status": self.get_status(), "session_name": self.config.session_name}
        run = self.job.run
        if run is not None:
            status |= {
                "epoch": run.progress.epoch,
                "max_epochs": self.config.optimization.max_epochs,
                "step": run.progress.step,
                "best": run.best.score.to_json(),
                "stopped_by": run.progress.stopped_by,
                "run_dir": str(self.run_dir),
            } | run.model.get_model_stats()
        return status

    def pause(self) -> None:
        """Hold the run between two steps."""
        self.job.run_control.pause()

    def resume(self) -> None:
        """Let a paused run go on."""
        self.job.run_control.resume()

    def stop(self, reason: str = "stopped") -> None:
        """Ask the run to save and end after the present step."""
        self.job.run_control.stop(reason)


def load(
    run: str | Path, *, model: nn.Module | None = None, allowed_targets: Sequence[str] = ()
) -> MorphableModel:
    """The best model of a run folder, checkpoint or final model's file, grown, on the CPU, in eval mode.

    `model` is the host, where it was passed to the trainer and so cannot be built from the configuration.
    `allowed_targets` names your own modules that the configuration may speak of: a checkpoint cannot allow
    them itself. No data and no other weights are read, and the global generators stay as they were. A
    checkpoint is verified to the last bit; a single file only says of itself that it is whole.
    Where the run reached a later epoch than its last good checkpoint, a warning names both.
    Raises `CheckpointError` for what is missing, damaged or does not fit.
    """
    path, state, saved, data = _read(Path(run))
    config = TolariaConfig.from_checkpoint(saved, allowed_targets)
    build.register_blueprints(config)
    if model is None:
        _refuse_giant(path, config, data, state)
    host = model if model is not None else _host(config, data)
    m = config.model
    try:
        grown = wrap(host, m.target_layers, m.seeds_per_layer, preserve_original=m.preserve_original)
        grown.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        fault = "its own configuration; a run with a model of your own is loaded with load(..., model=...)"
        if model is not None:
            fault = "the model that was given"
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
        return build.build_model(replace(config, model=replace(config.model, pretrained=False)), info)
    finally:
        restore_rng_state(*generators)


def _refuse_giant(
    path: Path, config: TolariaConfig, data: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """A host that is larger than what was saved is not even made: its size could be anything."""
    if config.model.architecture not in names.MODELS:
        return  # a model of the user's own may compute with its weights while it is made
    with torch.device("meta"):
        asked = make_model(config, DataInfo(**_with_tuples(data)))
    wanted = sum(p.numel() for p in asked.parameters())
    saved = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if wanted > saved:
        raise CheckpointError(f"{path} does not fit a model of {wanted:,} parameters: it holds {saved:,}")


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def run_job(
    config: TolariaConfig,
    run_dir: Path,
    *,
    overrides: Sequence[str] = (),
    number: int | None = None,
    sweep_dir: Path | None = None,
    lock: FolderLock | None = None,
) -> int:
    """What `esper-train` does with one checked configuration; returns the exit code.

    `number`, `sweep_dir` and `overrides` say which job of which sweep it is, and what sets it apart.
    """
    group = None if sweep_dir is None else f"{sweep_dir.parent.name}_{sweep_dir.name}"
    name = None if number is None else " ".join([str(number), *overrides])
    trainer = TolariaTrainer(config, run_dir=run_dir, group=group, name=name, lock=lock)
    if config.dry_run:
        print_flushed(trainer.dry_run())
        return 0
    with stop_on_signals(trainer.stop, starting=lambda: trainer.job.run is None):
        summary = trainer.run_training()
    return exit_code(summary["stopped_by"])


def _as_trained(config: TolariaConfig, wanted: str) -> TolariaConfig:
    """What a checkpoint is evaluated with: model, data, splits and loss as it was trained.

    Other splits would test it on what it has learnt from. Device, records, threads and where the data lies
    are those of `config`.
    """
    _, found = find_config(Path(wanted))
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
        run_dir=config.run_dir,
        dry_run=False,
        validate_only=False,
        profile_training=False,
    )


def _fresh_folder() -> Path:
    now = datetime.now()
    return OUTPUTS / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S.%f}"
