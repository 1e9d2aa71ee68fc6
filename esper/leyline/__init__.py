"""Leyline: the shared types that cross package borders (commands, events, state packets).

Depends on the standard library and `esper.errors` only; loads without torch.
"""

from esper.leyline.commands import AdaptationCommand, CommandKind, Outcome, Refusal
from esper.leyline.emergency import EmergencyLevel, EmergencySignal
from esper.leyline.ends import FINISHED_BY
from esper.leyline.events import CLOCK_METRICS, EPOCH_METRICS, Event, EventName, Level
from esper.leyline.lifecycle import ALIVE, GATES, JOINED, LEGAL_MOVES, Gate, SeedStage, check_move
from esper.leyline.packet import (
    Candidate,
    HealthSignal,
    Impact,
    SeedState,
    SiteState,
    SystemStatePacket,
    impact_evidence,
)

__all__ = [
    "ALIVE",
    "CLOCK_METRICS",
    "EPOCH_METRICS",
    "FINISHED_BY",
    "GATES",
    "JOINED",
    "LEGAL_MOVES",
    "AdaptationCommand",
    "Candidate",
    "CommandKind",
    "EmergencyLevel",
    "EmergencySignal",
    "Event",
    "EventName",
    "Gate",
    "HealthSignal",
    "Impact",
    "Level",
    "Outcome",
    "Refusal",
    "SeedStage",
    "SeedState",
    "SiteState",
    "SystemStatePacket",
    "check_move",
    "impact_evidence",
]
