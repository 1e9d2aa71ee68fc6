"""The rows of the battery: how each is run, how often, and on which broken build it has to go red."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from faults.harness.broken import replaced
from faults.harness.damage import corruptions
from faults.harness.disk import failures, naive_save, order
from faults.harness.grown import grown_run
from faults.harness.hostile import meetings
from faults.harness.lives import Server
from faults.harness.locks import rivalries
from faults.harness.malformed import resumptions
from faults.harness.poison import poisonings
from faults.harness.revival import (
    Moment,
    Whole,
    chain,
    interrupted,
    killings,
    never_stopped,
    stoppings,
    terminated,
)
from faults.harness.rich import left_out
from faults.harness.saving import killed_saves
from faults.harness.tally import Budget, Tally

from esper.core import atomic
from esper.core.manifest import read_manifest
from esper.tolaria.safety import guard
from esper.tolaria.safety.governor import Governor
from esper.tolaria.state import checkpoint, store

SEED = 0
_BROKEN = "faults.harness.broken:"


class Bench:
    """What rows share, made when it is first asked for: a fork server, and a run that was never stopped."""

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self.folder = folder
        self._owned = owned
        self._count = 0

    @cached_property
    def server(self) -> Server:
        setups = ("faults.harness.saving:prepared", "faults.harness.hostile:prepared")
        return self._owned.enter_context(Server(self.folder / "server", *setups))

    @cached_property
    def whole(self) -> Whole:
        return never_stopped(self.folder / "never-stopped")

    @cached_property
    def stopped(self) -> Path:
        """A run that was stopped in the midst of a blend."""
        run = self.folder / "stopped"
        interrupted(self.server, run, Moment("blending", 0.05), terminated)
        return run

    def fresh(self) -> Path:
        """A folder of its own."""
        self._count += 1
        path = self.folder / f"row-{self._count}"
        path.mkdir()
        return path

    def clear(self) -> None:
        """Remove what rows have left; what they found is in their tallies."""
        for path in self.folder.glob("row-*"):
            shutil.rmtree(path)


@dataclass(frozen=True)
class Row:
    """`fast` and `long` say how often the fault fires; 1 where the row is a list, gone through once."""

    fast: int
    long: int
    run: Callable[[Bench, Budget], Tally]
    control: Callable[[Bench, Budget], Tally]
    control_tries: int = 1


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


def _order_without_fsync(bench: Bench, budget: Budget) -> Tally:
    run = grown_run(bench.fresh())
    with replaced(atomic, "_write_durably", lambda path, content, io: io.write(path, content)):
        return order(run)


def _poison_unwatched(bench: Bench, budget: Budget) -> Tally:
    with replaced(Governor, "judge", lambda *_: ""), replaced(guard, "non_finite", lambda _: []):
        return poisonings(bench.fresh(), budget)


def _hostile(bench: Bench, budget: Budget, **options: str) -> Tally:
    folder = bench.fresh()
    whole = max(grown_run(folder / "run").store.folder.iterdir())
    return meetings(bench.server, folder, whole, **options)


def _on(harness: Callable[..., Tally], call: str = "") -> Callable[[Bench, Budget], Tally]:
    """A harness of whole runs, on the command or on a broken one."""
    options = {"call": _BROKEN + call} if call else {}
    return lambda bench, budget: harness(bench.server, bench.fresh(), bench.whole, budget, **options)


def _resumptions(call: str = "") -> Callable[[Bench, Budget], Tally]:
    options = {"call": _BROKEN + call} if call else {}
    return lambda bench, budget: resumptions(bench.server, bench.fresh(), bench.stopped, **options)


def _saves(saver: str) -> Callable[[Bench, Budget], Tally]:
    return lambda bench, budget: killed_saves(bench.server, bench.fresh(), budget, saver)


ROWS: dict[str, Row] = {
    "R1": Row(100, 2000, _saves("save_for_ever"), _saves("save_for_ever_naively"), 20),
    "R2": Row(5, 100, _on(killings), _on(killings, "forgetful"), 3),
    "R2-chain": Row(5, 20, _on(chain), _on(chain, "forgetful"), 3),
    "R3": Row(
        1, 1, lambda bench, _: left_out(bench.fresh()), lambda bench, _: left_out(bench.fresh(), decoy=True)
    ),
    "R4": Row(5, 50, _on(stoppings), _on(stoppings, "hasty"), 2),
    "R5": Row(300, 5000, _damage, _damage_unhashed, 50),
    "R6": Row(1, 1, _failures, _failures_of_naive),
    "R7": Row(1, 1, _order, _order_without_fsync),
    "R8": Row(1, 1, _hostile, lambda bench, budget: _hostile(bench, budget, call=f"{_BROKEN}trusting")),
    "R14": Row(25, 200, lambda bench, budget: poisonings(bench.fresh(), budget), _poison_unwatched, 3),
    "R17": Row(1, 1, _resumptions(), _resumptions("unchecked")),
    "R20": Row(5, 20, _on(rivalries), _on(rivalries, "unlocked"), 1),
}
