"""Counts failed updates of the optimisers after changes of topology, and blocks growth after too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from esper.leyline import EventName, Level
from esper.tolaria.events import Telemetry

# This many failures among the last changes open the breaker. A success between them does not reset the count:
# an optimiser that fails for every other seed is as defective as one that fails for each.
FAILURES_TO_OPEN = 3
REMEMBERED_CHANGES = 8
# How long no germination is allowed after that.
RECOVERY_EPOCHS = 2


class CircuitBreaker:
    """Counts the results of optimiser updates after changes of topology.

    After `FAILURES_TO_OPEN` failures among the last `REMEMBERED_CHANGES` the breaker opens: the growth
    controller rejects germinations (conservative mode). After `recovery_steps` optimiser steps it is half
    open: the next success closes it, the next failure opens it again for as long. It counts in steps, not in
    seconds, and its state is saved, so that a resumed run makes the same decisions.

    Args:
        telemetry: receives the events.
        recovery_steps: optimiser steps until it is half open.
    """

    def __init__(self, telemetry: Telemetry | None = None, *, recovery_steps: int = 100) -> None:
        self.telemetry = telemetry
        self.recovery_steps = recovery_steps
        self.total = 0
        self.failures = 0
        self.skipped = 0
        self.latency_ms = 0.0
        self._recent: deque[bool] = deque(maxlen=REMEMBERED_CHANGES)
        self._opened_step: int | None = None

    # -- what happened ---------------------------------------------------------------------------

    def skip(self) -> None:
        """Count a change that needs no update of the optimisers."""
        self.skipped += 1

    def success(self, step: int, latency_ms: float) -> None:
        """Count an update that succeeded."""
        self.total += 1
        self.latency_ms = latency_ms
        self._recent.append(True)
        self._emit(EventName.OPTIMIZER_REBUILT, Level.DEBUG, {})
        if self._opened_step is not None and not self.is_open(step):
            self._opened_step = None
            self._recent.clear()
            self._emit(EventName.CONSERVATIVE_MODE_CLEARED, Level.INFO, {"breaker": "optimizer"})

    def failure(self, step: int, latency_ms: float, reason: str) -> None:
        """Count an update that failed and was undone."""
        self.failures += 1
        self.latency_ms = latency_ms
        self._recent.append(False)
        self._emit(EventName.OPTIMIZER_REBUILD_FAILED, Level.WARNING, {"reason": reason})
        half_open = self._opened_step is not None and not self.is_open(step)
        opens = self._opened_step is None and self._recent.count(False) >= FAILURES_TO_OPEN
        if opens or half_open:
            self._opened_step = step
            facts = {"breaker": "optimizer", "reason": reason, "recovery_steps": self.recovery_steps}
            self._emit(EventName.BREAKER_OPENED, Level.ERROR, facts)
            self._emit(EventName.CONSERVATIVE_MODE_ENTERED, Level.WARNING, {"breaker": "optimizer"})

    def is_open(self, step: int) -> bool:
        """Whether growth is blocked at this step."""
        return self._opened_step is not None and step < self._opened_step + self.recovery_steps

    @property
    def reason(self) -> str:
        """Why growth is blocked, and until which step; empty while the breaker is closed."""
        if self._opened_step is None:
            return ""
        return (
            f"the optimisers could not be updated after {self._recent.count(False)} of the last "
            f"{len(self._recent)} changes; growth is blocked until step "
            f"{self._opened_step + self.recovery_steps}"
        )

    def metrics(self) -> dict[str, float]:
        """The counts by metric name."""
        return {
            "tolaria.opt.rebuilds_total": self.total,
            "tolaria.opt.rebuild_failures_total": self.failures,
            "tolaria.opt.rebuild_latency_ms": self.latency_ms,
            "tolaria.opt.rebuild_skipped_total": self.skipped,
        }

    def _emit(self, name: str, level: str, facts: Mapping[str, Any]) -> None:
        if self.telemetry is not None:
            self.telemetry.emit(name, {**facts, **self.metrics()}, level=level)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "failures": self.failures,
            "skipped": self.skipped,
            "recent": list(self._recent),
            "opened_step": self._opened_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total, self.failures, self.skipped = state["total"], state["failures"], state["skipped"]
        self._recent = deque(state["recent"], maxlen=REMEMBERED_CHANGES)
        self._opened_step = state["opened_step"]
