"""R17, its part of resuming: what may be named to go on from and is no such thing, or does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.forgery import MODEL, state
from faults.harness.hostile import hashed
from faults.harness.processes import MAIN, Ended, Server
from faults.harness.runs import GROWING

_RESUME = "checkpoint.resume_from_checkpoint"


@dataclass(frozen=True)
class Case:
    """`prepare(folder, run)` makes what is named, from a copy of a good run; `says` stands in the refusal.

    `options` are further ones; `{folder}` in them and the path that `prepare` returns are filled in.
    """

    prepare: Callable[[Path, Path], object]
    says: str
    options: tuple[str, ...] = ()
    deep: bool = False  # seen only where a run is there to be given its state, and so has a folder


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def _forged(**changes: object) -> Callable[[Path, Path], object]:
    """The newest checkpoint with another state.json, its hash in order."""

    def prepare(folder: Path, run: Path) -> Path:
        path = _newest(run)
        state(**changes)(path, folder)
        hashed(path)
        return path

    return prepare


def _damaged(folder: Path, run: Path) -> Path:
    for path in (run / "checkpoints").iterdir():
        content = bytearray((path / MODEL).read_bytes())
        content[-1] ^= 1
        (path / MODEL).write_bytes(content)
    return run


def _file(folder: Path, run: Path) -> Path:
    (folder / "model.pt").write_bytes(b"weights")
    return folder / "model.pt"


def _empty(folder: Path, run: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _foreign(folder: Path, run: Path) -> Path:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("not a folder")
    return run


def _loop(folder: Path, run: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _future(folder: Path, run: Path) -> Path:
    return _forged(version=99)(folder, run)  # type: ignore[return-value]


def _good(folder: Path, run: Path) -> Path:
    return run


def _named(text: str) -> Callable[[Path, Path], object]:
    return lambda folder, run: text


CASES: dict[str, Case] = {
    "nothing there": Case(lambda folder, run: folder / "absent", "does not exist"),
    "a file": Case(_file, "is a file"),
    "an empty folder": Case(_empty, "no checkpoint"),
    "a file in place of checkpoints": Case(_foreign, "no checkpoint"),
    "a loop of links": Case(_loop, "loop"),
    "a name that is too long": Case(_named("x" * 5000), "expected"),
    "an empty name": Case(_named("''"), _RESUME),
    "a list": Case(_named("[1,2]"), _RESUME),
    "a table": Case(_named("{a: 1}"), _RESUME),
    "damaged checkpoints only": Case(_damaged, "damaged"),
    "a future version": Case(_future, "of version 99"),
    "a state without a run": Case(_forged(state__run={}), "epoch-"),
    "a run that is a list": Case(_forged(state__run=[]), "epoch-"),
    "a configuration that is none": Case(_forged(state__run__config=3), "epoch-"),
    "a configuration without groups": Case(_forged(state__run__config={}), "saved"),
    "progress of text": Case(_forged(state__owners__run={"progress": "far"}), "run does not fit", deep=True),
    "no owners": Case(_forged(state__owners={}), "no state of model", deep=True),
    "owners that are a list": Case(_forged(state__owners=[]), "model", deep=True),
    "threads of text": Case(
        _forged(state__run__threads="many"), "threads", ("trainer.num_threads=null",), deep=True
    ),
    "another architecture": Case(_good, "model.architecture", ("model=mlp",)),
    "other widths": Case(_good, "model.model_params", ("model.model_params.widths=[4,4,4]",)),
    "another seed": Case(_good, "seed", ("seed=1",)),
    "other splits": Case(_good, "dataset.validation_split", ("dataset.validation_split=0.2",)),
    "fewer slots": Case(_good, "model.seeds_per_layer", ("model.seeds_per_layer=1",)),
    "a typing error beside it": Case(_good, "max_epoch", ("optimization.max_epoch=3",)),
}


def resumptions(server: Server, folder: Path, run: Path, budget: Budget, call: str = MAIN) -> FaultCounts:
    """R17: every case is named on the command line, for a run in a folder of its own."""
    counts = FaultCounts("R17")
    for number, (name, case) in enumerate(CASES.items()):
        if not budget.lasts(counts):
            break
        own = folder / str(number)
        shutil.copytree(run, own / "run")
        named = case.prepare(own, own / "run")
        target = own / "resumed"
        plain = [option for option in GROWING if not option.startswith(_RESUME)]
        ended = server.run(*plain, *case.options, f"{_RESUME}={named}", f"hydra.run.dir={target}", call=call)
        counts.note(True, [f"{name}: {sentence}" for sentence in _wrong(ended, case, target)])
    return counts


def _wrong(ended: Ended, case: Case, target: Path) -> list[str]:
    wrong = []
    if ended.code != 2:
        wrong.append(f"exit code {ended.code}")
    blocks = [line for line in ended.err.splitlines() if line.startswith("esper-train: ")]
    if len(blocks) != 1:
        wrong.append(f"{len(blocks)} blocks of errors")
    if "Traceback" in ended.err:
        wrong.append(f"a traceback: {ended.err.strip().splitlines()[-1]}")
    if case.says not in ended.err:
        wrong.append(f"{case.says!r} is not in {ended.err[-300:]!r}")
    if target.exists() and not case.deep:
        left = sorted(path.name for path in target.rglob("*") if path.is_file())
        wrong.append(f"a run folder was made, with {', '.join(left)}")
    return wrong
