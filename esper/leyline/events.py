"""Names of metrics and events, and which metrics depend on the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EPOCH_METRICS = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "epoch_time",
    "learning_rate",
    "morphogenetic_active",
    "active_seeds",
    "total_seeds",
    "kernel_executions",
    "params",
)

# Values that differ between two identical runs because they read the clock; ignored when runs are compared.
CLOCK_METRICS = frozenset(
    {
        "epoch_time",
        "wall_s",
        "cpu_s",
        "time",
        "latency_ms",
        "throughput",
        "elapsed_ms",
        "tolaria.opt.rebuild_latency_ms",
    }
)


class Level:
    """Severity of an event."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventName:
    """Names of the events in events.jsonl."""

    RUN_STARTED = "run_started"
    RUN_RESUMED = "run_resumed"
    RUN_FINISHED = "run_finished"
    EPOCH_FINISHED = "epoch_finished"
    SEED_STAGE = "seed_stage"
    SEED_HEALTH = "seed_health"
    SEED_IMPACT = "seed_impact"
    GATE = "gate"
    ADAPTATION_APPLIED = "adaptation_applied"
    ADAPTATION_REFUSED = "adaptation_refused"
    TOPOLOGY_CHANGED = "topology_changed"
    CHECKPOINT_SAVED = "checkpoint_saved"
    CHECKPOINT_FAILED = "checkpoint_failed"
    EARLY_STOPPED = "early_stopped"
    COMPILE_FALLBACK = "compile_fallback"
    LOGGER_FAILED = "logger_failed"
    HOOK_BUDGET_EXCEEDED = "tolaria.hook_budget_exceeded"
    TAMIYO_ERROR = "tolaria.tamiyo_error"
    KASMINA_ERROR = "tolaria.kasmina_error"
    BREAKER_OPENED = "tolaria.breaker_opened"
    CONSERVATIVE_MODE_ENTERED = "tolaria.conservative_mode_entered"
    CONSERVATIVE_MODE_CLEARED = "tolaria.conservative_mode_cleared"
    OPTIMIZER_REBUILT = "tolaria.opt.rebuilt"
    OPTIMIZER_REBUILD_FAILED = "tolaria.opt.rebuild_failed"
    SEED_GRADIENTS = "tolaria.grad_agg.seeds"
    SEED_SHARE_JUMP = "seed_share_jump"
    SEED_CONFLICT_HIGH = "seed_conflict_high"
    STEPS_SKIPPED = "tolaria.precision.steps_skipped"
    PROFILER_EXPORT_FAILED = "tolaria.profiler.export_failed"
    ROLLBACK_DONE = "tolaria.rollback.restored"
    ROLLBACK_FAILED = "tolaria.rollback.restore_failed"
    EMERGENCY_ESCALATED = "tolaria.emergency.escalated"
    EMERGENCY_CLEARED = "tolaria.emergency.cleared"
    EMERGENCY_HALT = "tolaria.emergency.halt"
    EMERGENCY_LATE = "tolaria.emergency.dispatch_timeout"
    EMERGENCY_ERROR = "tolaria.emergency.dispatch_error"
    GRAD_AGG = "tolaria.grad_agg"
    GRAD_CONFLICT_HIGH = "grad_conflict_high"
    OPTION_IDLE = "option_idle"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of events.jsonl.

    Args:
        time: seconds since 1970.
        name: one of `EventName`.
        level: one of `Level`.
        step: optimizer steps done.
        epoch: epochs finished.
        data: the event's own fields, as JSON types.

    Example:
        >>> Event(0.0, EventName.EARLY_STOPPED, Level.INFO, step=100, epoch=5).data
        {}
    """

    time: float
    name: str
    level: str
    step: int
    epoch: int
    data: Mapping[str, Any] = field(default_factory=dict)
