"""How bad things are with a run, in words that every subsystem understands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class EmergencyLevel(IntEnum):
    """0 is no emergency; from 3 on the network is not changed, 4 saves and stops."""

    NONE = 0
    NOTICE = 1
    ELEVATED = 2
    CONSERVATIVE = 3
    HALT = 4

    @classmethod
    def of(cls, level: int) -> EmergencyLevel:
        """The level of this number; raises `ValueError` for a number that is none."""
        if isinstance(level, bool) or level not in tuple(cls):
            known = ", ".join(f"{member.value} {member.name.lower()}" for member in cls)
            raise ValueError(f"emergency level {level!r} is unknown; expected one of {known}")
        return cls(level)


@dataclass(frozen=True, slots=True)
class EmergencySignal:
    """What is broadcast when the level of a run changes; `time` is seconds since 1970."""

    session_name: str
    level: EmergencyLevel
    reason: str
    time: float
    step: int
    epoch: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"level": int(self.level)}
