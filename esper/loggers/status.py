"""The current status of a run, readable from any thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esper.leyline import Event, EventName, SeedStage
from esper.loggers.base import Logger
from esper.loggers.json_encoding import to_strict_json

_NAMES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "params")
_REMOVED = frozenset({SeedStage.DORMANT, SeedStage.CULLED, SeedStage.EMBARGOED})


class StatusLogger(Logger):
    """Keeps the last epoch's measurements, the stage of each seed, the last checkpoint, the emergency level.

    `facts` may be called from any thread: what it returns is replaced as a whole and never changed.
    """

    every_epoch = True

    def __init__(self) -> None:
        self.name = "status"
        self._facts: dict[str, Any] = {"loss": None, "last_checkpoint": None, "emergency_level": 0}
        self._seeds: dict[tuple[str, int], dict[str, Any]] = {}

    def facts(self) -> dict[str, Any]:
        """JSON values: loss, the names of an epoch's metrics, seeds, last_checkpoint, emergency_level."""
        return dict(self._facts)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._seeds = {(seed["layer"], seed["seed"]): dict(seed) for seed in record.get("seeds", ())}
        found = {name: record[name] for name in _NAMES if name in record}
        self._set(loss=record.get("train_loss"), **found)

    def step(self, record: Mapping[str, Any]) -> None:
        self._set(loss=record.get("loss"))

    def event(self, event: Event) -> None:
        if event.name == EventName.SEED_STAGE:
            self._move(event.data)
        elif event.name in (EventName.CHECKPOINT_SAVED, EventName.RUN_RESUMED):
            self._set(last_checkpoint=event.data["name"])
        elif event.name in (EventName.EMERGENCY_ESCALATED, EventName.EMERGENCY_CLEARED):
            self._set(emergency_level=int(event.data.get("level", 0)))

    def _move(self, data: Mapping[str, Any]) -> None:
        place = (data["layer"], data["seed"])
        if data["to"] in _REMOVED:
            self._seeds.pop(place, None)
        else:
            known = self._seeds.get(place, {"alpha": None})
            new = {"blueprint": data["blueprint"], "stage": data["to"]}
            self._seeds[place] = {"layer": place[0], "seed": place[1], **known, **new}
        self._set()

    def _set(self, **changes: Any) -> None:
        self._facts = to_strict_json(
            {**self._facts, **changes, "seeds": [dict(s) for s in self._seeds.values()]}
        )
