"""Formats numbers, seeds and events as text. ASCII only, so that a file of any encoding can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esper.leyline import Event, EventName, SeedStage


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as a percentage, `-` where there is none."""
    return "-" if share is None else f"{100 * share:.1f}%"


def decimal(value: float | None) -> str:
    """Return a loss with four digits that count, `-` where there is none."""
    return "-" if value is None else f"{value:#.4g}"


def duration(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def seed_name(data: Mapping[str, Any]) -> str:
    """Return the display name of a seed, e.g. `blocks.1[0]` for seed 0 of layer blocks.1."""
    return f"{data['layer']}[{data['seed']}]"


def format_event(event: Event) -> str | None:
    """Return what happened to a seed or a command in one line; None for events that say neither.

    None, too, for stage changes that follow at once from a command, whose own line covers them.
    """
    formatter = _FORMATTERS.get(event.name)
    if formatter is None or event.data.get("to") in _IMPLIED_STAGES:
        return None
    return " ".join(formatter(event.data).split())


def _stage(data: Mapping[str, Any]) -> str:
    reason = f" ({data['reason']})" if data.get("reason") else ""
    return f"seed {seed_name(data)} {data.get('blueprint') or ''}: {data['from']} -> {data['to']}{reason}"


def _command(data: Mapping[str, Any]) -> str:
    place = seed_name(data) if data.get("layer") else ""
    return f"{data['kind']} {place} {data.get('blueprint') or ''}"


def _applied(data: Mapping[str, Any]) -> str:
    trust = f"confidence {data['confidence']:.2f}, urgency {data['urgency']:.2f}"
    return f"applied {_command(data)} ({trust}): {data['reason']}"


def _refused(data: Mapping[str, Any]) -> str:
    detail = f", {data['detail']}" if data.get("detail") else ""
    return f"refused {_command(data)}: {data['refusal']}{detail}"


def _rollback(data: Mapping[str, Any]) -> str:
    seed = f", seed {data['embargoed']} is kept out" if data["embargoed"] else ""
    return (
        f"rollback {data['rollbacks']} from step {data['failed_step']}: {data['reason']}; "
        f"learning rates x{data['learning_rate_scale']:g}{seed}"
    )


def _halted(data: Mapping[str, Any]) -> str:
    return f"halted: {data['reason']}"


_IMPLIED_STAGES = frozenset(
    {
        SeedStage.GERMINATED,
        SeedStage.TRAINING,
        SeedStage.BLENDING,
        SeedStage.FOSSILIZED,
        SeedStage.EMBARGOED,
    }
)

_FORMATTERS = {
    EventName.SEED_STAGE: _stage,
    EventName.ADAPTATION_APPLIED: _applied,
    EventName.ADAPTATION_REFUSED: _refused,
    EventName.ROLLBACK_DONE: _rollback,
    EventName.EMERGENCY_HALT: _halted,
}
