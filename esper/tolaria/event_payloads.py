"""Payloads of the events about commands and stage moves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from esper.kasmina import StageMove
from esper.leyline import Outcome


def outcome_payload(outcome: Outcome) -> dict[str, Any]:
    """A command with its evidence, and the refusal if it was refused."""
    c = outcome.command
    facts: dict[str, Any] = {
        "command_id": c.command_id,
        "kind": c.kind.value,
        "layer": c.layer,
        "seed": c.seed_index,
        "blueprint": c.blueprint,
        "placement": c.placement,
        "options": dict(c.options),
        "confidence": c.confidence,
        "urgency": c.urgency,
        "reason": c.reason,
        "evidence": dict(c.evidence),
    }
    if outcome.refusal is not None:
        facts |= {"refusal": outcome.refusal.value, "detail": outcome.detail}
    return facts


def move_payload(move: StageMove) -> dict[str, Any]:
    """A seed's stage move with the results of its gates."""
    r = move.record
    gates = [
        {"gate": v.gate.value, "passed": v.passed, "reason": v.reason, "evidence": dict(v.evidence)}
        for v in move.gate_results
    ]
    return {
        "layer": r.layer,
        "seed": r.index,
        "blueprint": r.blueprint,
        "placement": r.placement,
        "params": r.params,
        "from": move.old.value,
        "to": move.new.value,
        "reason": move.reason,
        "gates": gates,
        "impact": asdict(r.impact) if r.impact else None,
    }
