"""The trainer: one run from a configuration, and from objects where they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from esper.config import TolariaConfig
from esper.data import Datasets
from esper.data.map_style import MapStyle
from esper.errors import ConfigError
from esper.kasmina import MorphableModel
from esper.leyline import FINISHED_BY
from esper.loggers.jsonl_reader import METRICS_FILE, read_jsonl
from esper.loggers.plots import figure_of
from esper.runs.checked_run import check
from esper.runs.context import RunContext
from esper.runs.job import Job
from esper.tolaria.callbacks import Callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TolariaTrainer:
    """One training run; a trainer trains once.

    Args:
        config: Every option. It is checked at once, unless `context` has it checked already.
        model: The host network, in place of the configured architecture.
        train_data: A map-style dataset of samples (input, target), in place of the configured dataset. Its
            class may be defined anywhere, in a notebook, too. Integer classes in an attribute `targets` or
            `labels` make the splits stratified, a method `collate(samples)` makes the batches.
        val_data: The validation set; None splits `dataset.validation_split` off `train_data`.
        test_data: The test set; None splits `dataset.test_split` off `train_data`.
        callbacks: Called in this order, after those of the option `callbacks`; see `esper.Callback`.
        run_dir: The run's folder; else `config.run_dir`, else `outputs/<date>/<time>`.
        context: Console, sweep, folder lock and check, for callers that have these.

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
        train_data: MapStyle | None = None,
        val_data: MapStyle | None = None,
        test_data: MapStyle | None = None,
        callbacks: Sequence[Callback] = (),
        run_dir: str | Path | None = None,
        context: RunContext | None = None,
    ) -> None:
        _check_objects(config, model, callbacks)
        datasets = _datasets(train_data, val_data, test_data)
        context = context or RunContext()
        checked = context.checked or check(config, run_dir, model=model, datasets=datasets)
        self.config, self.run_dir = checked.config, checked.run_dir
        self.job = Job(checked, model=model, datasets=datasets, callbacks=callbacks, context=context)

    def run_training(self) -> dict[str, Any]:
        """Train, test and write the run folder; with `mode` "test" it is `run_test`.

        Returns:
            The content of `summary.json`: `val_accuracy`, `epochs_run`, `stopped_by`, ...

        Raises:
            ConfigError: `dry_run` or `validate_only` is set, so that nothing must be trained.
            RuntimeError: This trainer has run before.
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
        """Evaluate the checkpoint named by `checkpoint.resume_from_checkpoint` on the test set.

        Returns:
            The content of `summary.json`.
        """
        with self.job:
            return self.job.test()

    def dry_run(self) -> str:
        """Build everything and run one batch forward and backward.

        Returns:
            A description of the model, as lines of text.
        """
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
        """Plot loss and accuracy, parameters and the stages of the seeds over the epochs.

        Returns:
            A matplotlib figure; as the last value of a notebook's cell it is displayed as an image.

        Raises:
            RecordError: Before the first epoch has ended, and where no metrics are recorded.
        """
        return figure_of(self.run_dir)

    def get_status(self) -> str:
        """The state of the run; may be called from any thread.

        Returns:
            One of: created, running, paused, stopped, finished, failed.
        """
        run = self.job.run
        if self.job.failed:
            return "failed"
        if run is None:
            return "finished" if self.job.finished else "created"
        if run.progress.stopped_by:
            return "finished" if run.progress.stopped_by in FINISHED_BY else "stopped"
        return "paused" if self.job.run_control.paused else "running"

    def get_detailed_status(self) -> dict[str, Any]:
        """The status with position, seeds and best result; may be called from any thread.

        Returns:
            `status` and `session_name`; once the model is built also `epoch`, `max_epochs`, `step`, `best`,
            `stopped_by`, `run_dir`, and the entries of `MorphableModel.get_model_stats`.
        """
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

    def pause(self) -> bool:
        """Hold the run between two steps.

        Returns:
            Whether that took effect: False where the run is paused already, is ending or has ended.
        """
        return self.get_status() in ("created", "running") and self.job.run_control.pause()

    def resume(self) -> bool:
        """Continue a paused run.

        Returns:
            Whether that took effect: False where the run was not paused.
        """
        return self.job.run_control.resume()

    def stop(self, reason: str = "stopped") -> None:
        """Ask the run to save and end after the present step.

        Args:
            reason: Why, for `summary.json` and the log.
        """
        self.job.run_control.stop(reason)


def _check_objects(config: Any, model: Any, callbacks: Any) -> None:
    """Raise `ConfigError` for arguments of another kind than the trainer's."""
    problems = []
    if not isinstance(config, TolariaConfig):
        problems.append(
            f"config is a {_kind(config)}; expected a TolariaConfig, as of TolariaConfig.from_dict"
        )
    if model is not None and not isinstance(model, nn.Module):
        problems.append(f"model is a {_kind(model)}; expected an object of a torch.nn.Module, as of Net()")
    listed = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    wrong = [each for each in listed if not isinstance(each, Callback)]
    if wrong or not isinstance(callbacks, Sequence):
        problems.append(
            f"callbacks holds a {_kind([*wrong, callbacks][0])}; expected a list of esper.Callback objects"
        )
    if problems:
        raise ConfigError(problems)


def _kind(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _datasets(train: MapStyle | None, validation: MapStyle | None, test: MapStyle | None) -> Datasets | None:
    if train is not None:
        return Datasets(train, validation, test)
    if validation is not None or test is not None:
        raise ConfigError("val_data or test_data: given without train_data, expected all from one source")
    return None
