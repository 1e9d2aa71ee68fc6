"""The emergency level of a run: raised by triggers, lowered only explicitly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esper.leyline import EmergencyLevel


class Emergency:
    """Level, reason and time of the last trigger; `clock` returns seconds since 1970.

    `on_change(old, new)` is called after every trigger, downgrade and recovery, also if the level stays.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_change: Callable[[EmergencyLevel, EmergencyLevel], None] = lambda old, new: None,
    ) -> None:
        self.clock = clock
        self.on_change = on_change
        self.level = EmergencyLevel.NONE
        self.reason = ""
        self.time: float | None = None

    def escalate(self, level: int, reason: str) -> None:
        """Raise the level to at least `level`; reason and time are those of this trigger.

        Raises:
            ValueError: the level is unknown or 0.
        """
        wanted = EmergencyLevel.of(level)
        if wanted is EmergencyLevel.NONE:
            raise ValueError("level 0 is no emergency to escalate to; recover() ends one")
        self._set(max(self.level, wanted), reason)

    def downgrade(self, level: int, reason: str) -> None:
        """Lower the level explicitly.

        Raises:
            ValueError: `level` is not between 0 and the current level.
        """
        wanted = EmergencyLevel.of(level)
        if not EmergencyLevel.NONE < wanted < self.level:
            raise ValueError(
                f"level {int(self.level)} cannot be downgraded to {int(wanted)}; expected a level between, "
                "or recover()"
            )
        self._set(wanted, reason)

    def recover(self) -> None:
        """End the emergency: level, reason and time are as at the start."""
        old, self.level = self.level, EmergencyLevel.NONE
        self.reason, self.time = "", None
        self.on_change(old, self.level)

    def _set(self, level: EmergencyLevel, reason: str) -> None:
        old, self.level = self.level, level
        self.reason, self.time = reason, self.clock()
        self.on_change(old, level)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"level": int(self.level), "reason": self.reason, "time": self.time}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a saved level without notification. A halt ends when a user starts the run again."""
        level = EmergencyLevel.of(state["level"])
        halted = level is EmergencyLevel.HALT
        self.level = EmergencyLevel.NONE if halted else level
        self.reason, self.time = ("", None) if halted else (state["reason"], state["time"])
