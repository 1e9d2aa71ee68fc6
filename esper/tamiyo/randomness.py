"""The state of a policy's random generator as JSON."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


def dump_random(source: random.Random) -> list[Any]:
    """Return the generator's state as JSON types."""
    version, internal, gauss = source.getstate()
    return [version, list(internal), gauss]


def load_random(source: random.Random, state: Sequence[Any]) -> None:
    """Set the generator to a state that `dump_random` returned."""
    version, internal, gauss = state
    source.setstate((version, tuple(internal), gauss))
