"""Broken builds for R2: a run that is killed and resumed takes another course, or keeps another record."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.loggers import jsonl
from esper.loggers.jsonl_reader import EVENTS_FILE
from esper.tolaria.checkpoint.registry import StateRegistry


def control_state_forgotten() -> AbstractContextManager[None]:
    """What the control loop and Tamiyo remember is neither saved nor restored."""
    return _without("control")


def schedule_forgotten() -> AbstractContextManager[None]:
    """The learning rate schedule starts again."""
    return _without("schedule")


def generators_forgotten() -> AbstractContextManager[None]:
    """The random generators go on as they are after the start."""
    return _without("generators")


def events_not_cut() -> AbstractContextManager[None]:
    """What happened after the checkpoint stays in events.jsonl, and happens again."""
    cut = jsonl._cut

    def all_but_events(path: Path, length: int | None) -> None:
        cut(path, None if path.name == EVENTS_FILE else length)

    return broken(jsonl, "_cut", all_but_events)


def optimizers_forgotten() -> AbstractContextManager[None]:
    """The optimisers start without state."""
    return _without("optimizers")


def _without(owner: str) -> AbstractContextManager[None]:
    register = StateRegistry.register

    def all_but_one(manager: StateRegistry, name: str, *arguments: Any, **options: Any) -> None:
        if name != owner:
            register(manager, name, *arguments, **options)

    return broken(StateRegistry, "register", all_but_one)
