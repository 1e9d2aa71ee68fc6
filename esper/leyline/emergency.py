"""Emergency levels of a run, and the signal that is broadcast when the level changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class EmergencyLevel(IntEnum):
    """Severity from 0 (no emergency). From 3 on the topology is frozen; 4 saves a checkpoint and stops."""

    NONE = 0
    NOTICE = 1
    ELEVATED = 2
    CONSERVATIVE = 3
    HALT = 4

    @classmethod
    def of(cls, level: int) -> EmergencyLevel:
        """Convert a number to a level.

        Args:
            level: 0 to 4.

        Returns:
            The member of that value.

        Raises:
            ValueError: no member has that value, or `level` is a bool.
        """
        if isinstance(level, bool) or level not in tuple(cls):
            known = ", ".join(f"{member.value} {member.name.lower()}" for member in cls)
            raise ValueError(f"emergency level {level!r} is unknown; expected one of {known}")
        return cls(level)


@dataclass(frozen=True, slots=True)
class EmergencySignal:
    """Broadcast when the emergency level of a run changes.

    Args:
        session_name: name of the run.
        level: the new level.
        reason: one sentence.
        time: seconds since 1970.
        step: optimizer steps done.
        epoch: epochs finished.
    """

    session_name: str
    level: EmergencyLevel
    reason: str
    time: float
    step: int
    epoch: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON types; the level as its number."""
        return asdict(self) | {"level": int(self.level)}
