"""The end of a run: everything it owes is written and verified, and what could not be saved is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.config import TolariaConfig
from esper.leyline import EventName
from esper.loggers import LoggerHub, plot_run, summarise_metrics, write_summary
from esper.runs.outputs import BestEffortWriter, save_model
from esper.runs.resume import SUMMARY_FILE

if TYPE_CHECKING:
    from esper.tolaria.loop import TrainingLoop


def write_results(
    run: TrainingLoop, recorder: LoggerHub, run_dir: Path, summary: dict[str, Any], attempt: BestEffortWriter
) -> None:
    """Write the final model, the records' ends and, last of all, summary.json with what could not be saved.

    Each failed write and each result that is not on the disk afterwards is a problem of `attempt`. Where
    there is one, `summary` gets the key `unsaved`, a list of sentences: a run is finished only without it.
    """
    config, log = run.config, run.config.logging
    _write_model(run, config, run_dir, attempt)
    with attempt("the run's records"):
        run.telemetry.emit(EventName.RUN_FINISHED, {"stopped_by": summary["stopped_by"]})
        recorder.finish(summary)
    if log.save_metrics:
        with attempt("the summary of the metrics"):
            write_summary(run_dir / log.metrics_file, summarise_metrics(run_dir))
    with attempt("the run's records"):
        _draw(run, run_dir)
    if config.mode == "train":
        attempt.problems += missing(run, recorder, run_dir)
    if attempt.problems:
        summary["unsaved"] = list(attempt.problems)
    with attempt("the summary"):
        write_summary(run_dir / SUMMARY_FILE, summary)


def missing(run: TrainingLoop, recorder: LoggerHub, run_dir: Path) -> list[str]:
    """A sentence each for a trained run's last checkpoint and records that are not on the disk."""
    found = [run.why_unsaved()] if run.recovery.state_valid else []
    found += recorder.missing()
    return [sentence for sentence in found if sentence]


def _write_model(run: TrainingLoop, config: TolariaConfig, run_dir: Path, attempt: BestEffortWriter) -> None:
    if not config.checkpoint.save_final_model or config.mode != "train":
        return
    with attempt("the final model"):
        save_model(run_dir / config.checkpoint.model_save_path, run.model, config, run.components.data)


def _draw(run: TrainingLoop, run_dir: Path) -> None:
    if run.config.logging.track_metrics and run.progress.epoch > 0:
        run.measurements.take("the picture of the run", lambda: plot_run(run_dir))
