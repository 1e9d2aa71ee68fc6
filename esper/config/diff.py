"""A configuration beside the one a run was saved with: what differs, and what of it may.

One table says what may: the longest name that an option begins with decides, and what is not in it is
fixed, because a saved state would silently contradict it or belong to other numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from esper.config.messages import format_value

# True: may change. A text: may change, and means this. False: fixed, though more general rows allow it.
ALLOWED: Mapping[str, bool | str] = {
    "session_name": True,
    "session_description": True,
    "experiment_id": True,
    "device": "other devices round otherwise: no longer exact",
    "compile_model": "compiled code rounds otherwise: no longer exact",
    "debug_mode": True,
    "profile_training": True,
    "allowed_targets": True,
    "urza_url": True,
    "tamiyo_url": True,
    "oona_redis_url": True,
    "model.pretrained": "read only when a run begins",
    "model.cache_size_mb": True,
    "model.preserve_original": True,
    "dataset.data_root": True,
    "dataset.download": True,
    "dataset.num_workers": True,
    "dataset.pin_memory": True,
    "optimization.max_epochs": "from here on the learning rate follows a schedule of the new length",
    "optimization.early_stopping_patience": True,
    "optimization.early_stopping_min_delta": True,
    "optimization.scheduler": "from here on",
    "optimization.scheduler_params": "from here on",
    "optimization.gradient_clip_norm": "from here on",
    "morphogenetic": "from here on",
    "morphogenetic.tamiyo_enabled": False,
    "morphogenetic.policy._target_": False,
    "morphogenetic.performance_window": False,
    "checkpoint": True,
    "logging": True,
    "trainer": "from here on",
    "trainer.num_threads": "another number of threads sums otherwise: no longer exact",
    "trainer.limit_train_batches": False,
    "trainer.aggregation": False,
    "trainer.aggregation_params": False,
    "services": True,
}
# What differs whenever a run is taken up, and says nothing about it.
_UNSAID = ("mode", "run_dir", "dry_run", "validate_only", "checkpoint.resume_from_checkpoint")


@dataclass(frozen=True, slots=True)
class Change:
    """One option that is not as it was saved; `note` says what follows from it."""

    key: str
    saved: Any
    given: Any
    allowed: bool
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.key}: saved {format_value(self.saved)}, given {format_value(self.given)}{note}"


def config_diff(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[Change]:
    """Every option in which two plain configurations differ; one that only one of them has is null there."""
    then, now = dict(_flat(saved, "")), dict(_flat(given, ""))
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [_change(key, then.get(key), now.get(key)) for key in keys if not _within(key, _UNSAID)]


def _change(key: str, saved: Any, given: Any) -> Change:
    rows = [name for name in ALLOWED if _within(key, [name])]
    verdict = ALLOWED[max(rows, key=len)] if rows else False
    return Change(key, saved, given, bool(verdict), verdict if isinstance(verdict, str) else "")


def _within(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flat(data: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows
