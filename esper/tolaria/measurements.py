"""Measurements beside the training: a failed one is a warning and a missing value, and the run continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from esper.leyline import EventName
from esper.tolaria.events import Telemetry

T = TypeVar("T")


class Measurements:
    """Takes measurements that the training does not depend on (FLOPs, health, impact, reports, plots).

    The first failure of each kind is one `notice` event of level warning with its name and reason; further
    ones are only counted, in `failures`. Exceptions of the types in `passing`, and exceptions that are no
    `Exception` (interrupts), are raised.
    """

    def __init__(self, telemetry: Telemetry, passing: tuple[type[Exception], ...] = ()) -> None:
        self.telemetry = telemetry
        self.passing = passing
        self.failures: dict[str, int] = {}

    def take(self, what: str, measure: Callable[[], T]) -> T | None:
        """Return what `measure` returns, or None if it raises; `what` names the measurement."""
        try:
            return measure()
        except self.passing:
            raise
        except Exception as error:  # noqa: BLE001 - hosts, losses and blueprints are the user's code
            self._record_failure(what, error)
            return None

    def _record_failure(self, what: str, error: Exception) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1
        if self.failures[what] == 1:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"{what}: failed and is missing, the run goes on without it ({reason})"
            self.telemetry.warn(EventName.NOTICE, {"message": message})
