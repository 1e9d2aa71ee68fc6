"""Broken builds for R2: a run that is killed and resumed takes another course, or keeps another record."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from faults.harness.firing import broken

from esper.tolaria.state.manager import StateManager


def control_state_forgotten() -> AbstractContextManager[None]:
    """What the control loop and Tamiyo remember is neither saved nor restored."""
    register = StateManager.register

    def all_but_one(manager: StateManager, name: str, *arguments: Any, **options: Any) -> None:
        if name != "control":
            register(manager, name, *arguments, **options)

    return broken(StateManager, "register", all_but_one)
