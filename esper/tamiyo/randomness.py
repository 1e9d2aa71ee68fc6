"""A policy's own random numbers, and their state as JSON."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


def dump_random(source: random.Random) -> list[Any]:
    """The generator's whole state."""
    version, internal, gauss = source.getstate()
    return [version, list(internal), gauss]


def load_random(source: random.Random, state: Sequence[Any]) -> None:
    """Continue exactly where the saved generator stood."""
    version, internal, gauss = state
    source.setstate((version, tuple(internal), gauss))
