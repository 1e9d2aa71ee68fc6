"""A short name for what a run computes: equal for configurations that ask for the same numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Options for places, logging and resuming; the numbers do not depend on them.
LEFT_OUT = (
    "run_dir",
    "session_name",
    "session_description",
    "experiment_id",
    "dry_run",
    "validate_only",
    "debug_mode",
    "logging",
    "services",
    "allowed_targets",
    "urza_url",
    "tamiyo_url",
    "oona_redis_url",
    "dataset.data_root",
    "dataset.download",
    "trainer.profiler_dir",
    "trainer.profiler_active_steps",
    "profile_training",
    "checkpoint",
    "morphogenetic.tamiyo_url",
    "morphogenetic.policy.memory",
)


def config_hash(data: dict[str, Any]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over a plain configuration, `LEFT_OUT` left out."""
    kept = {key: value for key, value in _flat(data, "") if not _left_out(key)}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _left_out(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in LEFT_OUT)


def _flat(data: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, dict) and value else [(name, value)]
    return rows
