"""Builds that are broken on purpose, for the negative controls.

A function here that takes nothing is called in a forked process in place of the command's own `main`.
"""

from __future__ import annotations

import fcntl
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from esper import resume, train
from esper.cli.plan import make_plan
from esper.tolaria.state.manager import StateManager
from esper.tolaria.state.store import Store


@contextmanager
def replaced(owner: object, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Within the block a part of the engine is another one."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def forgetful() -> int:
    """One piece of state is neither saved nor restored: what the control loop and Tamiyo remember (R2)."""
    register = StateManager.register

    def all_but_one(manager: StateManager, name: str, *arguments: Any, **options: Any) -> None:
        if name != "control":
            register(manager, name, *arguments, **options)

    with replaced(StateManager, "register", all_but_one):
        return train.main()


def hasty() -> int:
    """A run that is asked to stop does so without saving (R4)."""
    save = Store.save

    def unless_final(store: Store, *arguments: Any, final: bool = False, **options: Any) -> Path | None:
        return None if final else save(store, *arguments, **options)

    with replaced(Store, "save", unless_final), replaced(Store, "save_snapshot", lambda *_, **__: None):
        return train.main()


def unlocked() -> int:
    """A lock that always succeeds (R20)."""
    with replaced(fcntl, "flock", lambda *_: None), replaced(train, "live_holder", lambda _: None):
        return train.main()


def unchecked() -> int:
    """What is named to go on from is not looked at before it is used (R17)."""
    with replaced(train, "_checked", make_plan), replaced(resume, "_refuse_changes", lambda *_: None):
        return train.main()


def trusting(path: str, way: str) -> None:
    """Reads whatever it is given: as tensors, else as a pickle (R8)."""
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            load_file(file)
        except (SafetensorError, OSError):
            torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
