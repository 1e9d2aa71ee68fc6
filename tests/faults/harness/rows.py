"""The rows of the battery: how each is run, how often, and on which broken build it has to go red."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from faults.harness.bench import Bench
from faults.harness.broken import replaced
from faults.harness.damage import corruptions
from faults.harness.disk import failures, naive_save, order
from faults.harness.forgery import FORGERIES
from faults.harness.grown import grown_run
from faults.harness.hostile import meetings
from faults.harness.locks import rivalries
from faults.harness.malformed import CASES, resumptions
from faults.harness.poison import poisonings
from faults.harness.revival import chain, killings, stoppings
from faults.harness.rich import left_out
from faults.harness.saving import killed_saves
from faults.harness.tally import Budget, Tally

from esper.core import atomic
from esper.core.atomic import Files
from esper.core.manifest import read_manifest
from esper.tolaria.safety import guard
from esper.tolaria.safety.governor import Governor
from esper.tolaria.state import checkpoint, store

SEED = 0
_BROKEN = "faults.harness.broken:"


@dataclass(frozen=True)
class Row:
    """`fast` and `long` say how often the fault fires, at least; equal where a row is a list.

    `control` is the same harness on a broken build, and `symptom` what it has to find there.
    """

    fast: int
    long: int
    run: Callable[[Bench, Budget], Tally]
    control: Callable[[Bench, Budget], Tally]
    symptom: str
    control_tries: int = 1

    def caught(self, control: Tally) -> bool:
        """Whether the broken build was found out, and by what is broken in it."""
        return control.fired > 0 and any(self.symptom in sentence for sentence in control.wrong)


def _damage(bench: Bench, budget: Budget) -> Tally:
    return corruptions(grown_run(bench.fresh()).store.folder, budget)


def _damage_unhashed(bench: Bench, budget: Budget) -> Tally:
    with replaced(checkpoint, "verify_folder", read_manifest):
        return _damage(bench, budget)


def _failures(bench: Bench, budget: Budget) -> Tally:
    folder = bench.fresh()
    return failures(grown_run(folder / "run"), folder)


def _failures_of_naive(bench: Bench, budget: Budget) -> Tally:
    folder = bench.fresh()
    run = grown_run(folder / "run")
    with replaced(store, "save_checkpoint", naive_save):
        return failures(run, folder)


def _order(bench: Bench, budget: Budget) -> Tally:
    return order(grown_run(bench.fresh()))


def _order_late(bench: Bench, budget: Budget) -> Tally:
    """Files are renamed first, and on the disk only then."""
    run, put_in_place = grown_run(bench.fresh()), atomic._put_in_place

    def put_and_sync(temp: Path, final: Path, io: Files) -> None:
        put_in_place(temp, final, io)
        for path in final.iterdir():
            io.fsync(path)

    with ExitStack() as broken:
        write = lambda path, content, io: io.write(path, content)  # noqa: E731
        broken.enter_context(replaced(atomic, "_write_durably", write))
        broken.enter_context(replaced(atomic, "_put_in_place", put_and_sync))
        return order(run)


def _poison_unwatched(bench: Bench, budget: Budget) -> Tally:
    with replaced(Governor, "judge", lambda *_: ""), replaced(guard, "non_finite", lambda _: []):
        return poisonings(bench.fresh(), budget)


def _hostile(bench: Bench, budget: Budget, **options: str) -> Tally:
    folder = bench.fresh()
    whole = max(grown_run(folder / "run").store.folder.iterdir())
    return meetings(bench.server, folder, whole, budget, **options)


def _on(harness: Callable[..., Tally], call: str = "") -> Callable[[Bench, Budget], Tally]:
    """A harness of whole runs, on the command or on a broken one."""
    options = {"call": _BROKEN + call} if call else {}
    return lambda bench, budget: harness(bench.server, bench.fresh(), bench.whole, budget, **options)


def _resumptions(call: str = "") -> Callable[[Bench, Budget], Tally]:
    options = {"call": _BROKEN + call} if call else {}
    return lambda bench, budget: resumptions(bench.server, bench.fresh(), bench.stopped, budget, **options)


def _saves(saver: str) -> Callable[[Bench, Budget], Tally]:
    return lambda bench, budget: killed_saves(bench.server, bench.fresh(), budget, saver)


def _omissions(*, decoy: bool) -> Callable[[Bench, Budget], Tally]:
    return lambda bench, _: left_out(bench.fresh(), decoy=decoy)


def _poison(bench: Bench, budget: Budget) -> Tally:
    return poisonings(bench.fresh(), budget)


def _hostile_trusted(bench: Bench, budget: Budget) -> Tally:
    return _hostile(bench, budget, call=f"{_BROKEN}trusting")


_MET = sum(len(forgery.ways) for forgery in FORGERIES.values())
_PIECES = 14  # the least that exact resume is known to need

ROWS: dict[str, Row] = {
    "R1": Row(
        100, 2000, _saves("save_for_ever"), _saves("save_for_ever_naively"), "nothing can be loaded", 20
    ),
    "R2": Row(5, 100, _on(killings), _on(killings, "forgetful"), "metrics.jsonl differs", 2),
    "R2-chain": Row(5, 20, _on(chain), _on(chain, "forgetful"), "metrics.jsonl differs", 3),
    "R3": Row(_PIECES, _PIECES, _omissions(decoy=False), _omissions(decoy=True), "nobody misses decoy"),
    "R4": Row(5, 50, _on(stoppings), _on(stoppings, "hasty"), "its last step is", 2),
    "R5": Row(300, 5000, _damage, _damage_unhashed, "loaded without a word", 50),
    "R6": Row(40, 40, _failures, _failures_of_naive, "its manifest says"),
    "R7": Row(2, 2, _order, _order_late, "is not on the disk before the rename"),
    "R8": Row(_MET, _MET, _hostile, _hostile_trusted, "its payload ran", 2),
    "R14": Row(25, 200, _poison, _poison_unwatched, "it went back 0 times", 3),
    "R17": Row(len(CASES), len(CASES), _resumptions(), _resumptions("unchecked"), "a run folder was made", 2),
    "R20": Row(5, 20, _on(rivalries), _on(rivalries, "unlocked"), "the second run ended with 0"),
}
