"""What a job starts from: nothing, its own last checkpoint, or another run's; and whether it may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.config import TolariaConfig
from esper.config.diff import Change, config_diff
from esper.config.messages import error_message, format_value
from esper.errors import CheckpointError, ConfigError
from esper.leyline import FINISHED_BY, EventName, Level
from esper.loggers.jsonl_reader import EVENTS_FILE, METRICS_FILE, STEPS_FILE
from esper.runs.checkpoint_folder import (
    folder_to_write,
    folder_with_checkpoints,
    is_own,
    refuse_lost,
    refuse_unwritable,
)
from esper.runs.origin import forget_beginning, record_beginning, recorded_beginning
from esper.runs.unfinished import what_is_owed
from esper.tolaria.checkpoint import Checkpoint, VerifiedCheckpoint, find_and_load, load_checkpoint
from esper.tolaria.checkpoint.discovery import find_config
from esper.tolaria.checkpoint.folder import is_same_folder
from esper.utils.bounded_read import read_object
from esper.utils.device_and_rng import set_threads
from esper.utils.files import move_aside

if TYPE_CHECKING:
    from esper.tolaria.loop import TrainingLoop


SUMMARY_FILE = "summary.json"
CONFIG_FILE = "config.yaml"

_KEY = "checkpoint.resume_from_checkpoint"
_EARLY = ("optimization.early_stopping_patience", "optimization.early_stopping_min_delta")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a job starts: `path` is a verified checkpoint, None for a fresh start.

    `own` says that it lies in the job's own folder, whose files then go on. `refused` holds a sentence for
    each damaged checkpoint that was passed over, `changed` what differs from the saved configuration, what
    may not differ included where `strict_loading` is false. `finished` is the summary of a run that has
    nothing left to do.
    """

    path: Path | None = None
    own: bool = False
    refused: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()
    finished: Mapping[str, Any] | None = None


def find_origin(config: TolariaConfig, run_dir: Path) -> ResumePoint:
    """What a job in `run_dir` starts from; only looks.

    Raises `ConfigError` for a folder that another run has used and for changes that may not be,
    `CheckpointError` where no checkpoint that is named or there is good.
    """
    wanted = config.checkpoint.resume_from_checkpoint
    if wanted is None:
        _refuse_used(run_dir, config)
        refuse_unwritable(run_dir, config)
        return ResumePoint()
    here = folder_with_checkpoints(run_dir, config)
    if wanted == "auto" and here is None:
        return _without_checkpoint(config, run_dir)
    found, saved = find_config(here if wanted == "auto" and here is not None else Path(wanted))
    own = config.mode == "train" and is_own(found.path, run_dir, config)
    if not own:
        _refuse_used(run_dir, config)
    if config.mode == "test":
        return ResumePoint(found.path, refused=found.refused)
    return _from_checkpoint(config, run_dir, found, saved, own=own)


def _from_checkpoint(
    config: TolariaConfig, run_dir: Path, found: VerifiedCheckpoint, saved: dict[str, Any], *, own: bool
) -> ResumePoint:
    """What follows from a checkpoint that the job may start from, if its configuration may be another."""
    changed = config_diff(saved, config.to_dict())
    elsewhere = own and not is_same_folder(found.path.parent, folder_to_write(run_dir, config))
    _refuse_changes(changed, config, elsewhere)
    finished = _finished(config, run_dir, changed, found.path.name) if own else None
    if finished is None:
        refuse_unwritable(run_dir, config)
    return ResumePoint(found.path, own, found.refused, tuple(changed), finished)


def load_origin(
    origin: ResumePoint, config: TolariaConfig, run_dir: Path
) -> tuple[ResumePoint, Checkpoint | None]:
    """The checkpoint that a job starts from; where its run has removed it since, a newer one of that run."""
    if origin.path is None:
        return origin, None
    try:
        return origin, load_checkpoint(origin.path)
    except CheckpointError:
        if origin.path.exists():
            raise
    wanted = config.checkpoint.resume_from_checkpoint
    if origin.own or wanted is None or wanted == "auto":
        raise CheckpointError(f"{origin.path} was removed by another process just now")
    found, checkpoint = find_and_load(Path(wanted))
    return replace(origin, path=found.path, refused=found.refused), checkpoint


def keep_beginning(origin: ResumePoint, config: TolariaConfig, run_dir: Path) -> None:
    """Write down what a job starts from that has no checkpoint of its own yet."""
    if config.mode != "train" or origin.own:
        return
    if origin.path is None:
        forget_beginning(run_dir)
    else:
        record_beginning(run_dir, origin.path)


def origin_problems(config: TolariaConfig, run_dir: Path) -> list[str]:
    """A sentence for each reason why a job cannot start there; for the check before a run."""
    try:
        find_origin(config, run_dir)
    except ConfigError as error:
        return error.problems
    except CheckpointError as error:
        if config.checkpoint.resume_from_checkpoint == "auto":
            return [
                error_message(
                    _KEY, "auto", f"a folder with a good checkpoint ({' '.join(str(error).split())})"
                )
            ]
        # one that is named has been looked at by esper.runs
    return []


# -- used, finished, killed ----------------------------------------------------------------------


def _refuse_used(run_dir: Path, config: TolariaConfig) -> None:
    """A folder belongs to one run: another in it would leave a mixture of both."""
    used = [METRICS_FILE] if _has_content(run_dir / METRICS_FILE) else []
    here = folder_with_checkpoints(run_dir, config)
    used += [str(here)] if here is not None else []
    if used:
        other = f", or {_KEY}=auto to go on with that run" if config.mode == "train" else ""
        raise ConfigError(f"{run_dir} holds a run already ({used[0]}); expected a folder of its own{other}")


def _without_checkpoint(config: TolariaConfig, run_dir: Path) -> ResumePoint:
    """The start that the folder's run had, unless that run has ended or has work that must not be lost."""
    summary = _summary(run_dir)
    if summary.get("stopped_by") not in FINISHED_BY or what_is_owed(run_dir, summary):
        refuse_lost(run_dir, config, summary)
        refuse_unwritable(run_dir, config)
        return _first_origin(config, run_dir)
    saved = TolariaConfig.from_yaml(run_dir / CONFIG_FILE)
    changed = config_diff(saved.to_dict(), config.to_dict())
    finished = _finished(config, run_dir, changed)
    if finished is None:
        expected = f"the folder of a run with checkpoints: the one in {run_dir} is finished and kept none"
        raise ConfigError(error_message(_KEY, "auto", expected))
    return ResumePoint(finished=finished, own=True)


def _first_origin(config: TolariaConfig, run_dir: Path) -> ResumePoint:
    """What the folder's run began from, for it was killed before it saved: nothing, or another run."""
    began = recorded_beginning(run_dir)
    if began is None:
        return ResumePoint()
    found, saved = find_config(began)
    return _from_checkpoint(config, run_dir, found, saved, own=False)


def _finished(
    config: TolariaConfig, run_dir: Path, changed: list[Change], newest: str = ""
) -> Mapping[str, Any] | None:
    """The summary of a run with nothing left to do; `newest` names its newest good checkpoint."""
    summary = _summary(run_dir)
    by, epochs = summary.get("stopped_by"), summary.get("epochs_run", 0)
    patient = any(change.key in _EARLY for change in changed)
    over = (by == "max_epochs" and config.optimization.max_epochs <= epochs) or (
        by == "early_stopping" and not patient
    )
    # where the last one is damaged, what came after the one before it must be done again
    complete = newest in ("", f"epoch-{epochs:04d}") and not what_is_owed(run_dir, summary)
    return summary if over and complete else None


def _summary(run_dir: Path) -> dict[str, Any]:
    try:
        return read_object(run_dir / SUMMARY_FILE)
    except (OSError, ValueError):
        return {}


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def what_finished(run_dir: Path, summary: Mapping[str, Any]) -> str:
    """The message instead of another run."""
    by, epochs = summary["stopped_by"], summary.get("epochs_run")
    more = "optimization.max_epochs" if by == "max_epochs" else _EARLY[0]
    return f"{run_dir} is finished ({by}, {epochs} epochs): nothing to do. A greater {more} goes on with it."


def set_killed_aside(run_dir: Path, config: TolariaConfig) -> list[str]:
    """Rename what a run that died before its first checkpoint has left; returns `<old> -> <new>` for each.

    Only files that Esper writes under these names. The loggers' ids stay, so that they are used again.
    """
    names = [METRICS_FILE, EVENTS_FILE, STEPS_FILE, SUMMARY_FILE, "crash.txt", "run.png"]
    names += [config.logging.metrics_file, config.checkpoint.model_save_path]
    boards = (run_dir / config.logging.tensorboard_log_dir).glob("events.out.tfevents.*")
    found = [path for path in (*(run_dir / name for name in names), *boards) if path.is_file()]
    return move_aside([path for path in found if run_dir.resolve() in path.resolve().parents])


def replace_summary(run_dir: Path) -> None:
    """Take away the summary of an end that is no longer one; a finished run's stays, under another name.

    A run that is killed now has died, whatever it did before. What the summary of a stopped run says is in
    the checkpoint that it resumes from.
    """
    file = run_dir / SUMMARY_FILE
    if _summary(run_dir).get("stopped_by") in FINISHED_BY:
        move_aside([file])
    else:
        file.unlink(missing_ok=True)


# -- another configuration than the saved one ----------------------------------------------------


def _refuse_changes(changed: list[Change], config: TolariaConfig, elsewhere: bool) -> None:
    wrong = [(c, expected) for c in changed if (expected := _why_not(c, config, elsewhere))]
    if not wrong:
        return
    problems = [
        error_message(c.key, c.given, f"{format_value(c.saved)}, {expected}") for c, expected in wrong
    ]
    if allowed := _and_may(c for c in changed if not _why_not(c, config, elsewhere)):
        problems[-1] += f"; these differ too, and may: {allowed}"
    raise ConfigError(problems)


def _why_not(change: Change, config: TolariaConfig, elsewhere: bool) -> str:
    if elsewhere and change.key == "checkpoint.checkpoint_dir":
        return "as it was saved: a run keeps its checkpoints in one folder"
    if config.checkpoint.strict_loading and not change.allowed:
        return "as it was saved, or checkpoint.strict_loading=false"
    return ""


def _and_may(changed: Iterable[Change]) -> str:
    return "; ".join(str(change) for change in changed if change.allowed)


def describe_origin(origin: ResumePoint, run: TrainingLoop) -> Iterator[str]:
    """The block that a resumed run begins with, a line each."""
    p = run.progress
    batch = f", batch {p.batch} of the next" if p.batch else ""
    yield f"resumed from {origin.path}: epoch {p.epoch}{batch}, step {p.step}"
    yield from (f"  {sentence}" for sentence in origin.refused)
    yield from (f"  changed: {change}" for change in origin.changed if change.allowed)
    yield from (f"  not as saved, by strict_loading=false: {c}" for c in origin.changed if not c.allowed)


def restore_run(run: TrainingLoop, checkpoint: Checkpoint, origin: ResumePoint) -> None:
    """Put the run where the checkpoint was saved, and record what differs from then."""
    if run.config.trainer.num_threads is None:
        threads = checkpoint.state["run"].get("threads")
        if type(threads) is not int or threads < 1:
            raise CheckpointError(f"{checkpoint.path} says it was saved with {threads!r} threads")
        set_threads(threads)  # sums depend on how they are split
    run.checkpointer.restore(checkpoint)
    former = checkpoint.state["owners"].get("callbacks")
    if former and not run.components.callbacks.callbacks:
        message = (
            f"the callbacks that the run was saved with are missing, and their state: {', '.join(former)}"
        )
        run.telemetry.warn(EventName.NOTICE, {"message": message})
    data = {
        "from": str(checkpoint.path),
        "name": checkpoint.path.name,
        "epoch": run.progress.epoch,
        "step": run.progress.step,
        "refused": list(origin.refused),
        "changed": {
            c.key: {"saved": c.saved, "given": c.given, "allowed": c.allowed} for c in origin.changed
        },
    }
    forced = any(not change.allowed for change in origin.changed)
    run.telemetry.emit(EventName.RUN_RESUMED, data, level=Level.WARNING if forced else Level.INFO)
