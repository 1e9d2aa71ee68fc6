"""R24: saves that fail from the k-th epoch on, a final model without room, a run folder removed."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.firing import replaced
from helpers.command import metrics_of
from helpers.runs import small_config
from rich.console import Console

import esper
from esper.cli.jobs import DONE, UNSAVED, run_planned
from esper.errors import CheckpointError
from esper.runs import outputs
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer
from esper.tolaria.checkpoint import checkpointer
from esper.tolaria.loop import TrainingLoop
from esper.utils.bounded_read import read_object

# How long the runs are; a longer one has more places at which its saves can begin to fail.
LENGTHS = (3, 4, 5)
MODEL = "models/final_model.safetensors"


def cases(epochs: int) -> list[tuple[str, int]]:
    """What can go wrong with a run of so many epochs, and in which of them."""
    fails = [("saves fail from", epoch) for epoch in range(2, epochs + 1)]
    removed = [("removed after", epoch) for epoch in range(1, epochs)]
    return [*fails, ("the final model fails in", epochs), ("saves fail from", 1), *removed]


def unsaved(folder: Path, budget: Budget) -> FaultCounts:
    """Each case: exit code, status, summary, warnings to readers, and that `auto` completes the run."""
    counts = FaultCounts("R24")
    for epochs in LENGTHS:
        whole = folder / f"whole-{epochs}"
        for kind, epoch in cases(epochs):
            if not budget.lasts(counts):
                return counts
            if not whole.exists():
                assert _job(whole, epochs) == DONE, "a run on a good disk"
            case = f"{kind} {epoch} of {epochs}"
            fired, wrong = _tried(folder / str(counts.tries), whole, epochs, kind, epoch)
            counts.note(fired, [f"{case}: {sentence}" for sentence in wrong], kind)
    return counts


def _tried(run: Path, whole: Path, epochs: int, kind: str, epoch: int) -> tuple[bool, list[str]]:
    fired: list[str] = []
    with _harmed(kind, epoch, run, fired):
        code = _job(run, epochs)
    about = "the final model" if kind.startswith("the final") else f"epoch-{epochs:04d}, is not saved"
    wrong = _untrue(run, code, about)
    saved = {"saves fail from": epoch - 1, "removed after": 0}.get(kind, epochs)
    wrong += _untold(run, saved, epochs)
    code = _job(run, epochs, checkpoint__resume_from_checkpoint="auto")
    return bool(fired), [*wrong, *_not_whole(run, whole, epochs, code), *_untold(run, epochs, epochs)]


def _job(folder: Path, epochs: int, **options: Any) -> int:
    given = {"optimization__max_epochs": epochs, "checkpoint__save_checkpoints": True}
    quick = {"checkpoint__checkpoint_frequency": 1, "morphogenetic__tamiyo_enabled": False}
    config = small_config(**given | quick | {"logging__log_level": "ERROR"} | options)

    def run() -> int:
        TolariaTrainer(config, run_dir=folder, context=RunContext(console=Console(quiet=True))).run_training()
        return DONE

    return run_planned(run, folder, None, [])


def _untrue(run: Path, code: int, about: str) -> list[str]:
    """What does not say that a result was not saved."""
    wrong = [] if code == UNSAVED else [f"the exit code is {code}"]
    if not any(about in line for line in read_object(run / "summary.json").get("unsaved", [])):
        wrong.append("the summary does not say what is unsaved")
    status = read_object(run / "status.json")
    if status["exit_code"] != UNSAVED or about not in (status["error"] or ""):
        wrong.append(f"the status says {status['exit_code']} and {status['error']}")
    return wrong


def _untold(run: Path, saved: int, epochs: int) -> list[str]:
    """What is wrong with what a reader hears, where the state of epoch `saved` is the last that is there."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            esper.load(run)
        except CheckpointError as error:
            return [f"a reader finds nothing: {error}"] if saved else []
    logged = [str(warning.message) for warning in caught]
    if saved == epochs:
        return [f"a reader is warned for nothing: {text}" for text in logged]
    named = any(f"of epoch {saved}" in text and f"reached epoch {epochs}" in text for text in logged)
    return [] if named else [f"a reader is not warned that the model is of epoch {saved}: {logged}"]


def _not_whole(run: Path, whole: Path, epochs: int, code: int) -> list[str]:
    """What is missing after `auto` has gone on."""
    wrong = [] if code == DONE else [f"auto ended with {code}"]
    if not (run / "checkpoints" / f"epoch-{epochs:04d}").is_dir():
        wrong.append("auto has not made the last checkpoint")
    elif metrics_of(run) != metrics_of(whole):
        wrong.append("the metrics differ from those of a good disk")
    if not (run / MODEL).is_file():
        wrong.append("auto has not written the final model")
    elif (run / MODEL).read_bytes() != (whole / MODEL).read_bytes():
        wrong.append("the final model differs from that of a good disk")
    if "unsaved" in read_object(run / "summary.json"):
        wrong.append("the summary still says that something is unsaved")
    return wrong


@contextmanager
def _harmed(kind: str, epoch: int, folder: Path, fired: list[str]) -> Iterator[None]:
    if kind.startswith("removed"):
        with replaced(TrainingLoop, "epoch", _then_removed(epoch, folder, fired)):
            yield
        return
    owner, name = (
        (checkpointer, "save_checkpoint") if kind.startswith("saves") else (outputs, "write_tensors_atomic")
    )
    write = getattr(owner, name)

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if owner is checkpointer and int(arguments[0][6:10]) < epoch:
            return write(path, *arguments, **options)
        fired.append(str(path))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with replaced(owner, name, full):
        yield


def _then_removed(epoch: int, folder: Path, fired: list[str]) -> Callable[[TrainingLoop], None]:
    before = TrainingLoop.epoch

    def then_removed(run: TrainingLoop) -> None:
        before(run)
        if run.progress.epoch == epoch:
            run.checkpointer.flush()
            shutil.rmtree(folder)
            fired.append(folder.name)

    return then_removed
