"""R25: a run is read in a loop while it saves, replaces and removes its checkpoints and its final model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.processes import ChildProcess, Server, until
from faults.harness.saving import is_saved_together
from helpers.runs import PlannedPolicy, make_run

import esper
from esper.control.offline import read_run_state
from esper.errors import CheckpointError
from esper.runs.outputs import save_model
from esper.tolaria.checkpoint.discovery import find_and_load, find_config
from esper.tolaria.checkpoint.retention import Retention
from esper.tolaria.loop import TrainingLoop
from esper.utils.files import Files

WRITER = "faults.harness.reading:save_and_prune"
_CLEAR = "changes faster than it can be read"
_FINAL = Path("models", "final_model.safetensors")
_FINAL_EVERY = 5


def save_and_prune(parent: str) -> None:
    """Save, keep one checkpoint or two, replace the final model, log an epoch; every name is saved twice."""
    run, folder = _small_run(), Path(parent)
    run.checkpointer.folder, run.checkpointer.io = folder / "checkpoints", _Unsynced()
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    metrics = os.open(folder / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(1, 1_000_000):
        with torch.no_grad():
            for weight in run.model.parameters():
                weight.fill_(number)
        run.progress.step, run.progress.epoch = number, 1 + number // 2
        run.checkpointer.retention = Retention(2 - number % 2, best=False)
        os.write(metrics, b'{"epoch": %d, ' % run.progress.epoch)
        saved = run.checkpointer.save(run.progress) and run.checkpointer.flush()
        assert saved and not saved.error, saved
        if number % _FINAL_EVERY == 1:
            save_model(folder / _FINAL, run.model, run.config, run.components.data)
        os.write(metrics, b'"step": %d}\n' % number)
        os.write(acknowledged, b"%d\n" % number)


class _Unsynced(Files):
    """What a reader sees does not wait for the disk: so there is more of it to see."""

    def fsync(self, path: Path) -> None:
        return

    def fsync_dir(self, path: Path) -> None:
        return


def _small_run() -> TrainingLoop:
    return make_run(
        Path(),
        tamiyo=PlannedPolicy(),
        model__architecture="mlp",
        model__model_params={"hidden": [16]},
        model__target_layers=["body.fc1"],
        checkpoint__save_checkpoints=True,
        checkpoint__checkpoint_frequency=1,
    )


def readings(server: Server, folder: Path, budget: Budget, call: str = WRITER) -> FaultCounts:
    """R25: so many reads of all kinds, in turn, beside one writer."""
    counts = FaultCounts("R25")
    process = server.start(call=call, arguments=[str(folder)])
    begun = until(lambda: _acknowledged(folder) > 0 or process.over, timeout_s=30)
    assert begun and not process.over, process.wait().err
    try:
        kinds = cycle(READS)
        while budget.lasts(counts):
            _one(next(kinds), folder, counts)
    finally:
        ended = _end(process)
    counts.demand(ended == -9, "the writer had ended by itself")
    counts.demand(4 * counts.seen["while it saved"] >= counts.fired, "hardly a read met a save")
    return counts


def _end(process: ChildProcess) -> int:
    return process.kill().code


def _one(kind: str, folder: Path, counts: FaultCounts) -> None:
    before, seen = _acknowledged(folder), [kind]
    try:
        wrong = READS[kind](folder, before)
    except CheckpointError as error:
        wrong = "" if _CLEAR in str(error) else f"{type(error).__name__}: {error}"
        seen = ["a clear error"]
    except Exception as error:  # noqa: BLE001 - every other type is what the row looks for
        wrong = f"{type(error).__name__}: {error}"
    if _acknowledged(folder) > before:
        seen.append("while it saved")
    counts.note(True, [f"{kind}: {wrong:.300}"] if wrong else [], *seen)


def _acknowledged(folder: Path) -> int:
    """The number of the last save that is known to be durable; 0 before the first."""
    try:
        lines = (folder / "acknowledged").read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return int(lines[-2]) if len(lines) > 1 else 0


def _load(folder: Path, before: int) -> str:
    with warnings.catch_warnings():
        # for an active run the warning is right: it has started an epoch that is not saved yet
        warnings.filterwarnings("ignore", message=".*its later state was not saved, or not yet")
        return _constant(esper.load(folder), before)


def _load_final(folder: Path, before: int) -> str:
    return _constant(esper.load(folder / _FINAL), before - _FINAL_EVERY)


def _checkpoint(folder: Path, before: int) -> str:
    saved = find_and_load(folder)[1]
    number = saved.state["run"]["progress"]["step"]
    if not is_saved_together(saved, number):
        return f"{saved.path.name} is a mixture"
    return _age(number, before)


def _config(folder: Path, _: int) -> str:
    found = find_config(folder)[1]
    return "" if found["model"]["architecture"] == "mlp" else f"the configuration is {found}"


def _status(folder: Path, before: int) -> str:
    return _age(read_run_state(folder).get("step", 0), before)


def _constant(model: torch.nn.Module, before: int) -> str:
    weights = [weight.detach() for weight in model.parameters()]
    values = {float(value) for weight in weights for value in (weight.min(), weight.max())}
    return f"a mixture of {values}" if len(values) != 1 else _age(int(values.pop()), before)


def _age(number: int, before: int) -> str:
    return "" if number >= before else f"save {before} was durable before it was read; this is {number}"


READS: dict[str, Callable[[Path, int], str]] = {
    "load": _load,
    "checkpoint": _checkpoint,
    "final model": _load_final,
    "config": _config,
    "status": _status,
}
