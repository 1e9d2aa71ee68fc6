"""Broken builds for R4: a run that is asked to stop does not save, stops late, or says so wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.tolaria.state.store import Store


@contextmanager
def no_final_save() -> Iterator[None]:
    """It stops without saving."""
    save = Store.save

    def unless_final(store: Store, *arguments: Any, final: bool = False, **options: Any) -> Path | None:
        return None if final else save(store, *arguments, **options)

    with broken(Store, "save", unless_final), broken(Store, "save_snapshot", lambda *_, **__: None):
        yield
