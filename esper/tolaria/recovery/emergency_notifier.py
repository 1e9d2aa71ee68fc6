"""Publishes the emergency level of a run: events for its own logs, signals for other processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.leyline import EmergencyLevel, EmergencySignal, EventName, Level
from esper.tolaria.events import Telemetry
from esper.tolaria.recovery.emergency import Emergency
from esper.tolaria.recovery.notifier import NotifierWorker
from esper.utils.files import write_json_atomic

EMERGENCY_FILE = "emergency.json"


class EmergencyNotifier:
    """Raises and ends the emergencies of one run.

    Each change of level is an event and is written to `emergency.json` in the run folder for other processes.
    """

    def __init__(self, run_dir: Path, session_name: str, telemetry: Telemetry) -> None:
        self.path = run_dir / EMERGENCY_FILE
        self.session_name = session_name
        self.telemetry = telemetry
        self.emergency = Emergency(telemetry.clock, self._changed)
        self.worker = NotifierWorker(self._write)
        self.halts = 0

    @property
    def level(self) -> EmergencyLevel:
        return self.emergency.level

    @property
    def reason(self) -> str:
        return self.emergency.reason

    def start(self) -> None:
        """Publish the end of an emergency that an earlier process left in the folder."""
        if self.level is EmergencyLevel.NONE and self.path.exists():
            self.worker.publish(self._signal(""))

    def report_problems(self) -> None:
        """Emit events for broadcasts that failed or are late; cheap, for the loop to call regularly."""
        for problem in self.worker.problems():
            name = EventName.EMERGENCY_LATE if problem.late else EventName.EMERGENCY_ERROR
            self.telemetry.warn(name, {"reason": problem.reason} | self.worker.status())

    def status(self) -> dict[str, Any]:
        """Level, reason, time of the last trigger, and counts of the broadcasts."""
        e = self.emergency
        return {
            "level": int(e.level),
            "reason": e.reason,
            "time": e.time,
            "halts": self.halts,
            "broadcasts": self.worker.status(),
        }

    def close(self) -> None:
        """Send what is queued, for a limited time, and report what could not be sent."""
        self.worker.close()
        self.report_problems()

    def _changed(self, old: EmergencyLevel, new: EmergencyLevel) -> None:
        if new is EmergencyLevel.NONE and old is EmergencyLevel.NONE:
            return
        facts: dict[str, Any] = {"level": int(new), "before": int(old), "reason": self.reason}
        if new < old:
            self.telemetry.emit(EventName.EMERGENCY_CLEARED, facts)
        else:
            self.telemetry.warn(EventName.EMERGENCY_ESCALATED, facts)
        if new is EmergencyLevel.HALT:
            self.halts += 1
            self.telemetry.emit(EventName.EMERGENCY_HALT, {"reason": self.reason}, level=Level.ERROR)
        self.worker.publish(self._signal(self.reason))

    def _signal(self, reason: str) -> EmergencySignal:
        at = self.emergency.time
        return EmergencySignal(
            session_name=self.session_name,
            level=self.level,
            reason=reason,
            time=self.telemetry.clock() if at is None else at,
            step=self.telemetry.step,
            epoch=self.telemetry.epoch,
        )

    def _write(self, signal: EmergencySignal) -> None:
        write_json_atomic(self.path, signal.to_json())

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.emergency.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.emergency.load_state_dict(state)
