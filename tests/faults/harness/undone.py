"""R21: a run that goes back three times is killed just after a rollback, inside one, and between two."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.harness import overshoot
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.firing import replaced
from faults.harness.processes import Ended, Server, on_growth, until
from faults.harness.revival import STAGES, Whole, after
from faults.harness.runs import ending, events

from esper import train
from esper.leyline import EventName
from esper.loggers import LoggerHub
from esper.tolaria.checkpoint.format import list_checkpoints
from esper.tolaria.checkpoint.retention import find_abandoned
from esper.tolaria.checkpoint.rollback import Rollback
from esper.tolaria.events import Telemetry
from esper.tolaria.interrupts import InterruptHandler
from esper.tolaria.recovery.guard import DivergenceGuard
from esper.utils.files import Files

CALL = "faults.harness.undone:run_with_rollbacks"
# Six epochs of six steps. At the first fault slots are in training, fossilised, embargoed and dormant; at the
# second others blend and are in probation; the third comes before the second's epoch is over.
AT = (20, 28, 29)
# After this step a checkpoint is asked for, as `esper-ctl RUN checkpoint` does: the next rollback goes there.
CHECKPOINT_STEP = 27
_MODULE = "faults.harness.overshoot"
_RUN = (
    *("optimization.max_epochs=6", "trainer.limit_train_batches=6", "trainer.limit_val_batches=2"),
    *(f"allowed_targets=[{_MODULE}]", "morphogenetic/policy=custom"),
    *(f"morphogenetic.policy._target_={_MODULE}.Planned", f"optimization.optimizer={_MODULE}.Overshoot"),
    *("optimization.scheduler=none", f"+optimization.optimizer_params.at=[{','.join(map(str, AT))}]"),
    *("morphogenetic.blueprints=[conv_light]", "+model.model_params.widths=[4,8,8]", "seed=9"),
    *("morphogenetic.seed.isolation_steps=3", "morphogenetic.seed.blend_steps=4"),
    *("morphogenetic.seed.embargo_epochs=3", "morphogenetic.max_adaptations_per_epoch=9"),
    *("morphogenetic.max_params_ratio=99", "morphogenetic.max_flops_ratio=99"),
    "morphogenetic.decision_frequency=1",
    "morphogenetic.adaptation_cooldown=0",
    *("checkpoint.checkpoint_frequency=1", "checkpoint.resume_from_checkpoint=auto"),
    *("logging.progress=false", "services.control_socket=false"),
)
# More than there are points in a rollback that a kill can fall between.
_POINTS = 48


def command(folder: Path) -> tuple[str, ...]:
    """The command line of the run in `folder`."""
    return (*_RUN, f"hydra.run.dir={folder}")


# -- in the process that is killed ---------------------------------------------------------------


def run_with_rollbacks(marks: str = "", rollback: int = 0, point: int = 0) -> int:
    """The command, which kills itself in its n-th `rollback`: at a point, or when that is logged.

    With `marks`, a folder, each fault happens once, however many processes the run takes.
    """
    overshoot.Overshoot.marks = Path(marks) if marks else None
    with ExitStack() as owned:
        owned.enter_context(_checkpoint_requested())
        if rollback:
            Killer(rollback, point).lie_in_wait(owned)
        return train.main()


def _checkpoint_requested() -> AbstractContextManager[None]:
    between = InterruptHandler.between_steps
    due = [CHECKPOINT_STEP]  # once in a process: after a rollback the run passes here again

    def request_checkpoint(handler: InterruptHandler) -> bool:
        if handler.progress.step in due:
            due.clear()
            handler.run_control.checkpoint()
        return between(handler)

    return replaced(InterruptHandler, "between_steps", request_checkpoint)


class Killer:
    """Counts what a rollback does to the disk, and kills the process before one of these things."""

    def __init__(self, rollback: int, point: int) -> None:
        self.rollback = rollback
        self.left = point
        self.seen = 0

    def lie_in_wait(self, owned: ExitStack) -> None:
        for name in ("mkdir", "write", "fsync", "rename", "fsync_dir"):
            self._before(owned, Files, name)
        self._before(owned, LoggerHub, "rewind")
        self._before(owned, DivergenceGuard, "rolled_back")
        back, warn = Rollback.restore, Telemetry.warn

        def went_back(*arguments: Any, **options: Any) -> Any:
            result = back(*arguments, **options)
            self.seen += 1
            return result

        def logged(telemetry: Telemetry, name: str, *arguments: Any) -> None:
            warn(telemetry, name, *arguments)
            if name == EventName.ROLLBACK_DONE and self.seen == self.rollback:
                os.kill(os.getpid(), signal.SIGKILL)

        owned.enter_context(replaced(Rollback, "restore", went_back))
        owned.enter_context(replaced(Telemetry, "warn", logged))

    def _before(self, owned: ExitStack, owner: type, name: str) -> None:
        method = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            if self.seen == self.rollback:
                self.left -= 1
                if self.left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments, **options)

        owned.enter_context(replaced(owner, name, counted))


# -- from outside --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strike:
    """When a run is killed: after the `rollback`-th has been logged, or at a `point` inside of it.

    Where each fault happens `once` in the world, the kill has to come after a rollback was logged, and before
    the next fault: of what was not durable nothing could be known.
    """

    rollback: int
    delay_s: float = 0.0
    point: int | None = None
    once: bool = False

    def __str__(self) -> str:
        place = "just after" if self.point is None else "inside"
        return f"{'between two' if self.delay_s > 0.01 else place}, rollback {self.rollback}"


def strikes(budget: Budget, times: Sequence[float]) -> Iterator[Strike]:
    """For ever, in turn: just after each rollback, inside of each, between the first and the second."""
    draw = budget.draw
    while True:
        yield Strike(1, draw.uniform(0, 0.005), once=True)
        yield Strike(2, point=draw.randrange(_POINTS))
        yield Strike(3, draw.uniform(0, 0.005), once=True)
        yield Strike(1, 0.01 + draw.uniform(0, times[1] - times[0]))
        yield Strike(1, point=draw.randrange(_POINTS))
        yield Strike(2, once=True)
        yield Strike(3, point=draw.randrange(_POINTS))


def rollbacks(folder: Path) -> list[dict[str, Any]]:
    """The rollbacks in the events of a run, without their durations."""
    found = [event for event in events(folder) if event["name"] == EventName.ROLLBACK_DONE]
    return [{**e["data"], "step": e["step"], "epoch": e["epoch"], "latency_ms": None} for e in found]


def stages_at_faults(folder: Path) -> list[set[str]]:
    """The stages that slots were in when each fault of a run struck, before its rollback moved any."""
    now: dict[tuple[str, int], str] = {}
    found = []
    for event in events(folder):
        data = event["data"]
        if event["name"] == EventName.SEED_STAGE and not data["reason"].startswith("rollback: "):
            now[data["layer"], data["seed"]] = data["to"]
        elif event["name"] == EventName.EMERGENCY_ESCALATED:
            found.append(set(now.values()) & set(STAGES))
    return found


def struck(server: Server, folder: Path, strike: Strike, marks: str, call: str) -> Ended:
    """One process of the run in `folder`, killed."""
    if strike.point is not None:
        inside = [marks, strike.rollback, strike.point]
        return server.run(*command(folder), call=call, arguments=inside)
    killed = server.start(*command(folder), call=call, arguments=[marks])
    logged = on_growth(lambda: len(rollbacks(folder)) >= strike.rollback, folder / "events.jsonl")
    until(lambda: logged() or killed.over, timeout_s=60)
    until(lambda: killed.over, timeout_s=strike.delay_s)
    return killed.kill()


def never_killed(server: Server, folder: Path) -> None:
    """The run to its end."""
    done = server.run(*command(folder), call=CALL)
    assert done.code == 0, done.err


def undoings(server: Server, folder: Path, reference: Path, budget: Budget, call: str = CALL) -> FaultCounts:
    """R21: so many runs, each killed once at a rollback and then run to its end, as `reference` was."""
    counts = FaultCounts("R21")
    whole, expected = Whole(ending(reference), 0.0), rollbacks(reference)
    assert len(expected) == len(AT), expected
    found = stages_at_faults(reference)
    times = [e["time"] for e in events(reference) if e["name"] == EventName.ROLLBACK_DONE]
    moments = strikes(budget, times)
    while budget.lasts(counts):
        run, strike = folder / f"undone-{counts.tries}", next(moments)
        marks = str(_made(folder / f"marks-{counts.tries}")) if strike.once else ""
        ended = struck(server, run, strike, marks, call)
        again = server.run(*command(run), call=call, arguments=[marks])
        wrong = [*after(run, again, whole), *(_records(run, expected) if again.code == 0 else ())]
        fired = ended.code == -signal.SIGKILL
        counts.note(fired, [f"{strike}: {s}" for s in wrong], str(strike), *found[strike.rollback - 1])
    missing = sorted(set(STAGES) - counts.seen.keys())
    counts.demand(not missing, f"no fault met a seed that was {' or '.join(missing)}")
    return counts


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _records(run: Path, expected: list[dict[str, Any]]) -> list[str]:
    wrong = []
    if (found := rollbacks(run)) != expected:
        wrong.append(f"{run.name}: its events contain other rollbacks than {expected}: {found}")
    if left := find_abandoned(list_checkpoints(run / "checkpoints")[0]):
        wrong.append(f"{run.name}: abandoned checkpoints are left: {sorted(path.name for path in left)}")
    return wrong
