"""R3: each saved piece of state left out in turn; the run must not end as if it had been there."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.harness.fault_counts import FaultCounts
from faults.harness.memory import raw, remembered, timeless
from faults.harness.watching import Watching
from helpers.runs import notes_of

from esper.tolaria.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from esper.tolaria.checkpoint.registry import REFERENCE
from esper.tolaria.loop import TrainingLoop

Piece = tuple[str, ...]
Scenario = Callable[[Path], TrainingLoop]

_ABSENT = object()
# How far a state is taken apart: an owner, what it saves, and what that is made of.
_DEPTH = {"optimizers": 4, "best": 2}
_USUAL_DEPTH = 3
_PER_PROCESS_EVENTS = {"checkpoint_saved"}


@dataclass(frozen=True)
class Stopped:
    """A run that was never stopped, and one like it with the checkpoint that it was stopped at.

    `fresh` is a checkpoint of one that has not started: the values of pieces that are not restored.
    """

    name: str
    scenario: Scenario
    folder: Path
    ending: Ending
    step: int
    saved: Checkpoint
    fresh: Checkpoint


def stopped(scenario: Scenario, folder: Path, step: int) -> Stopped:
    """Run a scenario to its end, and another one to `step`."""
    whole = finish(scenario(folder / "whole"))
    new = scenario(folder / "new")
    new.checkpointer.save(new.progress, final=True)
    run = scenario(folder / "stopped")
    stop_at(run, step)
    run.train()
    assert run.progress.step == step
    return Stopped(folder.name, scenario, folder, whole, step, _last(run), _last(new))


def _last(run: TrainingLoop) -> Checkpoint:
    """What a restart would take up; a rollback has left one of its own besides."""
    return load_checkpoint(find_checkpoint(run.checkpointer.folder).path)


def stop_at(run: TrainingLoop, step: int) -> None:
    """Ask a run, whose notes are `Watching`, to stop after a step."""
    notes = notes_of(run)
    assert isinstance(notes, Watching)
    notes.listeners.append(lambda: run.run_control.stop("sigterm") if run.progress.step == step else None)


@dataclass(frozen=True)
class Ending:
    """Epochs and events of a run, and all that it remembers at its end."""

    epochs: list[dict[str, Any]]
    events: list[tuple[str, int, dict[str, Any]]]
    memory: dict[str, Any]

    def same(self, whole: Ending, step: int) -> bool:
        """Whether a run that was taken up at `step` ended as the whole one did."""
        events = [event for event in whole.events if event[1] > step]
        count = len(self.epochs)
        return (
            self.memory == whole.memory
            and self.epochs == whole.epochs[len(whole.epochs) - count :]
            and [event for event in self.events if event[1] > step] == events
        )


def finish(run: TrainingLoop) -> Ending:
    """Run to the end."""
    run.train()
    notes = notes_of(run)
    events = [(e.name, e.step, timeless(e.data)) for e in notes.events if e.name not in _PER_PROCESS_EVENTS]
    return Ending(notes.comparable(), events, remembered(*run.state.capture()))


def omissions(case: Stopped, missed: set[str], counts: FaultCounts, only: str = "") -> None:
    """Resume the run once for each piece of its state that is not in `missed` yet, without that piece.

    What is as it would be in a fresh run cannot be missed there. `only` names the one owner to look at.
    """
    counts.demand(not _ends_otherwise(case, case.saved), f"{case.name}: with all in place it ends otherwise")
    for name, paths in pieces(case.saved).items():
        if name in missed or not name.startswith(only):
            continue
        idle = all(_value(case.saved, path) == _value(case.fresh, path) for path in paths)
        if not idle and _ends_otherwise(case, without(case.saved, case.fresh, paths)):
            counts.note(True, [], case.name)
            missed.add(name)
        else:
            counts.note(False, [])


def _ends_otherwise(case: Stopped, checkpoint: Checkpoint) -> bool:
    run = case.scenario(case.folder / "again")
    run.config.checkpoint.save_checkpoints = False
    try:
        run.checkpointer.restore(checkpoint)
        return not finish(run).same(case.ending, case.step)
    except Exception:  # noqa: BLE001 - a crash is not silent
        return True


# -- pieces --------------------------------------------------------------------------------------


def pieces(saved: Checkpoint) -> dict[str, list[Piece]]:
    """What the state of all owners is made of; what belongs to one layer or parameter goes together."""
    found: dict[str, list[Piece]] = {}
    for path in _parts(saved.state["owners"], ()):
        if _at(saved.state["owners"], path) == {}:
            continue
        found.setdefault(_kind(path), []).append(path)
    return found


def _parts(value: Any, path: Piece) -> Iterator[Piece]:
    deep = len(path) >= (_DEPTH.get(path[0], _USUAL_DEPTH) if path else 1)
    if not deep and isinstance(value, dict) and value and value.keys() != {REFERENCE}:
        for key, item in value.items():
            yield from _parts(item, (*path, key))
    else:
        yield path


def _kind(path: Piece) -> str:
    """The path without the names of layers, seeds and parameters."""
    last = [re.split(r"[/.]", name)[-1] if re.search(r"[#.]", name) else name for name in path]
    kept = [name for name in last if not re.search(r"\d$|#|^main$", name)]
    kept = [name for name in kept if not (path[0] == "health" and name == path[1])]
    return "/".join([*kept, *(["of a seed"] if any("#" in name for name in path) else [])])


# -- leaving out ---------------------------------------------------------------------------------


def without(saved: Checkpoint, fresh: Checkpoint, paths: list[Piece]) -> Checkpoint:
    """The checkpoint as a build would find it that neither saves nor restores these pieces."""
    state = copy.deepcopy(saved.state)
    tensors = {name: dict(group) for name, group in saved.tensors.items()}
    for path in paths:
        owner = _at(state["owners"], path[:-1])
        for name in _references(owner[path[-1]]):
            tensors[path[0]].pop(name)
        other = _at(fresh.state["owners"], path)
        if other is _ABSENT:
            del owner[path[-1]]
            continue
        owner[path[-1]] = other
        for name in _references(other):
            tensors.setdefault(path[0], {})[name] = fresh.tensors[path[0]][name]
    return Checkpoint(saved.path, state, tensors)


def _value(checkpoint: Checkpoint, path: Piece) -> Any:
    value = _at(checkpoint.state["owners"], path)
    return value, [raw(checkpoint.tensors[path[0]][name]) for name in _references(value)]


def _references(value: Any) -> list[str]:
    """The names of all tensors that a part of the state refers to."""
    if not isinstance(value, Mapping):
        return []
    if value.keys() == {REFERENCE}:
        return [value[REFERENCE]]
    return [name for item in value.values() for name in _references(item)]


def _at(state: Any, path: Piece) -> Any:
    for name in path:
        if not isinstance(state, Mapping) or name not in state:
            return _ABSENT
        state = state[name]
    return state
