"""Is a run healthy, and what is done where it is not: governor, rollback, emergencies."""

from esper.tolaria.recovery.alarm import Alarm
from esper.tolaria.recovery.divergence import Governor
from esper.tolaria.recovery.guard import Guard, Unhealthy
from esper.tolaria.recovery.recovery import HALTED, Recovery
from esper.tolaria.recovery.step_buffer import Watch

__all__ = ["HALTED", "Alarm", "Governor", "Guard", "Recovery", "Unhealthy", "Watch"]
