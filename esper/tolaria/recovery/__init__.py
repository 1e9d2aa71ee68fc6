"""Detects divergence and recovers from it: detector, rollback, emergencies."""

from esper.tolaria.recovery.divergence import DivergenceDetector
from esper.tolaria.recovery.emergency_notifier import EmergencyNotifier
from esper.tolaria.recovery.guard import DivergenceError, DivergenceGuard
from esper.tolaria.recovery.recovery import HALTED, Recovery
from esper.tolaria.recovery.step_buffer import StepBuffer

__all__ = [
    "HALTED",
    "DivergenceDetector",
    "DivergenceError",
    "DivergenceGuard",
    "EmergencyNotifier",
    "Recovery",
    "StepBuffer",
]
