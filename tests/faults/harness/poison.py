"""R14: losses, gradients and weights that are NaN or far too large, at every seed stage, twice running."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.firing import replaced
from faults.harness.memory import remembered
from faults.harness.watching import Watching
from helpers.runs import PlannedPolicy, germinate, make_run, notes_of, seed_command
from torch import Tensor, nn

from esper.leyline import CommandKind
from esper.tolaria.checkpoint import find_checkpoint, load_checkpoint
from esper.tolaria.loop import TrainingLoop

STAGES = ("dormant", "training", "blending", "probationary", "fossilized", "embargoed")
KINDS = ("NaN loss", "Inf loss", "exploding loss", "NaN gradient", "exploding gradient", "NaN weight")
TIMES = 2
_LATER_STEPS = 10
_LATER = "snapshots compared ten steps later"


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


_POISONS: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN loss": lambda loss: loss * math.nan,
    "Inf loss": lambda loss: loss + math.inf,
    "exploding loss": lambda loss: loss * 1e5,
    "NaN gradient": lambda loss: _Scaled.apply(loss, math.nan),
    "exploding gradient": lambda loss: _Scaled.apply(loss, 1e9),
}


class Poison(nn.Module):
    """Cross entropy that is poisoned at one step, as often as the run comes by, up to a number of times."""

    def __init__(self, kind: str, step: int, times: int = TIMES) -> None:
        super().__init__()
        self.kind, self.step, self.left = kind, step, times
        self.fired = 0
        self.run: TrainingLoop | None = None
        self.in_step = False

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(scores, targets)
        if self.kind in _POISONS and self._now(self.in_step):
            loss = _POISONS[self.kind](loss)
        return loss

    def aim(self, run: TrainingLoop) -> None:
        """Only what is computed inside of a step of this run is poisoned: not what FLOPs are counted on."""
        step = run.stepper.step
        self.run = run

        def marked(*arguments: Any, **options: Any) -> Any:
            self.in_step = True
            try:
                return step(*arguments, **options)
            finally:
                self.in_step = False

        run.stepper.step = marked  # type: ignore[method-assign]

    def after_step(self) -> None:
        """Poison a weight between two steps."""
        if self.kind not in _POISONS and self._now(True):
            assert self.run is not None
            with torch.no_grad():
                next(self.run.model.parameters()).view(-1)[0] = math.nan

    def _now(self, here: bool) -> bool:
        now = here and self.run is not None and self.run.progress.step == self.step and self.left > 0
        self.left -= now
        self.fired += now
        return now


@dataclass
class Witness:
    """Keeps its own copy of every state that the run keeps, and compares what it is brought back to."""

    run: TrainingLoop
    states: dict[int, Any] = field(default_factory=dict)
    rollbacks: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    _due: list[tuple[int, int]] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        snapshots, rollback = self.run.guard.snapshots, self.run.recovery.rollback
        with ExitStack() as owned:
            owned.enter_context(replaced(snapshots, "take", self._taking(snapshots.take)))
            owned.enter_context(replaced(rollback, "restore", self._going_back(rollback.restore)))
            yield

    def after_step(self) -> None:
        """Ten steps after a rollback its snapshot has to be what it was."""
        step = self.run.progress.step
        for due, at in [pair for pair in self._due if pair[0] == step]:
            self._due.remove((due, at))
            kept = self.run.guard.snapshots.nearest(at)
            if kept is None or kept.step != at:
                continue
            self.compared += 1
            if remembered(kept.tensors, kept.state["owners"]) != self.states[at]:
                self.wrong.append(f"the snapshot of step {at} has changed {_LATER_STEPS} steps later")

    def _taking(self, take: Callable[..., Any]) -> Callable[..., Any]:
        def taken(progress: Any) -> Any:
            self.states[progress.step] = remembered(*self.run.state.capture())
            return take(progress)

        return taken

    def _going_back(self, back: Callable[..., Any]) -> Callable[..., Any]:
        def gone_back(*arguments: Any, **options: Any) -> Any:
            result = back(*arguments, **options)
            self.rollbacks += 1
            if not result.ok or result.tier != "fast":
                self.wrong.append(f"the rollback says {result}")
            elif remembered(*self.run.state.capture()) != self.states[result.step]:
                self.wrong.append(f"the state is not that of step {result.step}")
            else:
                self._due.append((result.step + _LATER_STEPS, result.step))
            return result

        return gone_back


def grown(folder: Path, loss: nn.Module) -> TrainingLoop:
    """Ten epochs of six steps: block1's seed becomes a fossil, block2's is culled and its slot embargoed."""
    commands = {
        3: [germinate(), germinate("block2", number=2)],
        5: [seed_command(CommandKind.CULL, "block2", number=3, seed_index=0)],
        6: [seed_command(CommandKind.FOSSILIZE, number=4, seed_index=0)],
    }
    return make_run(
        folder,
        tamiyo=PlannedPolicy(commands),
        notes=Watching(),
        parts={"loss": loss},
        optimization__max_epochs=10,
        checkpoint__save_checkpoints=True,
        checkpoint__checkpoint_frequency=3,
        morphogenetic__max_params_ratio=99.0,
        morphogenetic__max_adaptations_per_epoch=9,
        morphogenetic__seed__isolation_steps=5,
        morphogenetic__seed__blend_steps=5,
        morphogenetic__seed__embargo_epochs=2,
    )


def timetable(folder: Path) -> dict[str, list[int]]:
    """In mid-epoch of which steps a seed is in each stage, in a run without poison; warm-up left out."""
    run = grown(folder, Poison("none", -1))
    notes = notes_of(run)
    assert isinstance(notes, Watching)
    found: dict[str, list[int]] = {stage: [] for stage in STAGES}

    def look() -> None:
        if run.progress.step >= 17 and 0 < run.progress.batch < 5:
            slots = [record for row in run.model.records.values() for record in row]
            for stage in {record.stage.value for record in slots} & found.keys():
                found[stage].append(run.progress.step)

    notes.listeners.append(look)
    run.train()
    return found


def poisonings(folder: Path, budget: Budget) -> FaultCounts:
    """R14: so many runs, the kinds of poison and the stages in turn, the step drawn."""
    counts = FaultCounts("R14")
    steps = timetable(folder / "healthy")
    while budget.lasts(counts):
        number = counts.tries
        kind, stage = KINDS[number % 6], STAGES[(number + number // 6) % 6]
        poison = Poison(kind, budget.draw.choice(steps[stage]))
        wrong, compared = poisoned(folder / str(number), poison)
        place = f"{kind} at step {poison.step} ({stage})"
        seen = [kind, stage, *([_LATER] * compared)]
        counts.note(poison.fired > 0, [f"{place}: {sentence}" for sentence in wrong], *seen)
        counts.demand(poison.fired == TIMES, f"{place}: it fired {poison.fired} times")
    counts.demand(2 * counts.seen[_LATER] >= counts.fired, "too few snapshots were looked at ten steps later")
    return counts


def poisoned(folder: Path, poison: Poison) -> tuple[list[str], int]:
    """Run once with the poison; what was wrong, and how many snapshots were compared ten steps later."""
    run = grown(folder, poison)
    notes, witness = notes_of(run), Witness(run)
    assert isinstance(notes, Watching)
    notes.listeners += [poison.after_step, witness.after_step]
    poison.aim(run)
    with witness.watching():
        run.train()
    wrong = list(witness.wrong)
    if witness.rollbacks != TIMES:
        wrong.append(f"it went back {witness.rollbacks} times")
    if run.progress.stopped_by != "max_epochs":
        wrong.append(f"it ended by {run.progress.stopped_by}")
    wrong += orphans(run)
    saved = load_checkpoint(find_checkpoint(run.checkpointer.folder).path)
    bad = [
        name for name, tensor in saved.tensors["model"].items() if not torch.isfinite(tensor.float()).all()
    ]
    if bad:
        wrong.append(f"the newest checkpoint holds {bad[0]}, which is not finite")
    return wrong, witness.compared


def orphans(run: TrainingLoop) -> list[str]:
    """Parameters that are optimised but not the model's, or the reverse; optimiser state of neither."""
    own = {id(p) for p in run.model.parameters() if p.requires_grad}
    optimizers = (run.optimizers.main, *run.optimizers.isolated.values())
    optimised = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    kept = {id(p) for o in optimizers for p in o.state}
    wrong = []
    if set(optimised) != own or len(optimised) != len(own):
        wrong.append("the optimisers' parameters are not those of the model")
    if not kept <= own:
        wrong.append("an optimiser keeps state of parameters that are gone")
    return wrong
