"""Is a run healthy, and what is done where it is not: governor, rollback, emergencies."""

from esper.tolaria.safety.alarm import Alarm
from esper.tolaria.safety.governor import Governor
from esper.tolaria.safety.guard import Guard, Unhealthy
from esper.tolaria.safety.recovery import HALTED, Recovery
from esper.tolaria.safety.watch import Watch

__all__ = ["HALTED", "Alarm", "Governor", "Guard", "Recovery", "Unhealthy", "Watch"]
