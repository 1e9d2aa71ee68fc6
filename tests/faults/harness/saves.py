"""R24: saves that fail from the k-th epoch on, the last one only, and a run folder that is removed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.harness.firing import replaced
from faults.harness.tally import Tally
from helpers.command import metrics_of
from helpers.runs import small_config
from rich.console import Console

from esper.api import TolariaTrainer
from esper.cli.jobs import DONE, UNSAVED, carry_out
from esper.core.reading import read_object
from esper.tolaria.run import Run
from esper.tolaria.state import store

EPOCHS = 3
CASES = (
    "saves fail from 1",
    "saves fail from 2",
    "the last save fails",
    "removed after 1",
    "removed after 2",
)


def unsaved(folder: Path) -> Tally:
    """Each case once: the exit code, what the summary says, and that `auto` makes the run whole."""
    tally = Tally("R24")
    code, _ = _job(folder / "whole")
    assert code == DONE, "a run on a good disk"
    for number, case in enumerate(CASES):
        run = folder / str(number)
        fired: list[str] = []
        with _harmed(case, run, fired):
            code, _ = _job(run)
        wrong = _untrue(run, code)
        code, _ = _job(run, checkpoint__resume_from_checkpoint="auto")
        wrong += _not_whole(run, folder / "whole", code)
        tally.note(bool(fired), [f"{case}: {sentence}" for sentence in wrong], case)
    return tally


def _job(folder: Path, **options: Any) -> tuple[int, Path]:
    given = {"optimization__max_epochs": EPOCHS, "checkpoint__save_checkpoints": True}
    quick = {"checkpoint__checkpoint_frequency": 1, "morphogenetic__tamiyo_enabled": False}
    config = small_config(**given | quick | {"logging__log_level": "ERROR"} | options)

    def run() -> int:
        TolariaTrainer(config, run_dir=folder, console=Console(quiet=True)).run_training()
        return DONE

    return carry_out(run, folder, None, []), folder


def _untrue(run: Path, code: int) -> list[str]:
    """What does not say that the run's end was not saved."""
    wrong = [] if code == UNSAVED else [f"the exit code is {code}"]
    if not any(
        "epoch-0003, is not saved" in line for line in read_object(run / "summary.json").get("unsaved", [])
    ):
        wrong.append("the summary does not say what is unsaved")
    if read_object(run / "status.json")["exit_code"] != UNSAVED:
        wrong.append("the status says another exit code")
    return wrong


def _not_whole(run: Path, whole: Path, code: int) -> list[str]:
    """What is missing after `auto` has gone on."""
    wrong = [] if code == DONE else [f"auto ended with {code}"]
    if not (run / "checkpoints" / "epoch-0003").is_dir():
        wrong.append("auto has not made the last checkpoint")
    elif metrics_of(run) != metrics_of(whole):
        wrong.append("the metrics differ from those of a good disk")
    if "unsaved" in read_object(run / "summary.json"):
        wrong.append("the summary still says that something is unsaved")
    return wrong


@contextmanager
def _harmed(case: str, folder: Path, fired: list[str]) -> Iterator[None]:
    if case.startswith("removed"):
        with replaced(Run, "epoch", _then_removed(int(case[-1]), folder, fired)):
            yield
        return
    first = EPOCHS if case.startswith("the last") else int(case[-1])
    save = store.save_checkpoint

    def full(parent: Path, name: str, **options: Any) -> Path:
        if int(name[6:10]) < first:
            return save(parent, name, **options)
        fired.append(name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(parent / name))

    with replaced(store, "save_checkpoint", full):
        yield


def _then_removed(epoch: int, folder: Path, fired: list[str]) -> Callable[[Run], None]:
    before = Run.epoch

    def then_removed(run: Run) -> None:
        before(run)
        if run.progress.epoch == epoch:
            run.store.flush()
            shutil.rmtree(folder)
            fired.append(folder.name)

    return then_removed
