"""Notes that a broken build's patch was really reached, in this process or in one that it started."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

VARIABLE = "ESPER_FAULTS_FIRED"


def fire() -> None:
    """Note it: by making the file that the environment names, which every child process inherits."""
    if path := os.environ.get(VARIABLE):
        with suppress(OSError):  # the disk may be what is broken
            Path(path).touch()


@contextmanager
def replaced(owner: object, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Within the block an attribute of the engine is another callable."""
    before = inspect.getattr_static(owner, name) if isinstance(owner, type) else getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def broken(owner: object, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """The same, for a broken build: the first call of the replacement is noted."""

    @functools.wraps(value)
    def noted(*arguments: Any, **options: Any) -> Any:
        fire()
        return value(*arguments, **options)

    with replaced(owner, name, noted):
        yield
