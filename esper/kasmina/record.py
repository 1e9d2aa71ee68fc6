"""The state of one slot as plain data: what checkpoints, events and summaries hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from esper.leyline import ALIVE, JOINED, Impact, SeedStage, check_move


@dataclass(slots=True)
class SeedRecord:
    """One slot at one layer.

    Epochs are finished epochs at the time, -1 where it has not happened; steps are optimizer steps done.

    Args:
        layer: name of the layer.
        index: slot at that layer.
        chunk_id: number of the slot in the whole model.
        stage: stage of the seed; DORMANT for an empty slot.
        blueprint, placement, options, blend_mode: how the seed is built and blended in.
        layout, in_shape, out_shape: the shapes that it was built for, of one sample.
        params: number of parameters.
        germinated_epoch, germinated_step, blended_epoch, fossilized_epoch, culled_epoch: when that happened.
        stage_step, stage_epoch: when the stage was entered.
        embargo_until_epoch: the slot stays empty until so many epochs are finished.
        impact: the last measured impact.
        error_count: how often a gate has blocked the seed.
        reason: why the stage was entered.

    Example:
        >>> SeedRecord("fc1", 0, chunk_id=0).alive
        False
    """

    layer: str
    index: int
    chunk_id: int
    stage: SeedStage = SeedStage.DORMANT
    blueprint: str = ""
    placement: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    blend_mode: str = "additive"
    layout: str = ""
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    params: int = 0
    germinated_epoch: int = -1
    germinated_step: int = 0
    blended_epoch: int = -1
    fossilized_epoch: int = -1
    culled_epoch: int = -1
    stage_step: int = 0
    stage_epoch: int = 0
    embargo_until_epoch: int = -1
    impact: Impact | None = None
    error_count: int = 0
    reason: str = ""

    @property
    def key(self) -> str:
        """Name of the slot; without dots, which a `ModuleDict` does not allow."""
        return f"{self.layer.replace('.', '/')}#{self.index}"

    @property
    def alive(self) -> bool:
        """Whether the seed's module exists."""
        return self.stage in ALIVE

    @property
    def joined(self) -> bool:
        """Whether the seed's output is added to its layer's."""
        return self.stage in JOINED

    def move(self, stage: SeedStage, *, step: int, epoch: int, reason: str) -> None:
        """Enter `stage`; raises `GrowthError` unless `LEGAL_MOVES` allows it."""
        check_move(self.stage, stage)
        self.stage, self.stage_step, self.stage_epoch, self.reason = stage, step, epoch, reason
        stamp = {
            SeedStage.GERMINATED: "germinated_epoch",
            SeedStage.BLENDING: "blended_epoch",
            SeedStage.FOSSILIZED: "fossilized_epoch",
            SeedStage.CULLED: "culled_epoch",
        }.get(stage)
        if stamp:
            setattr(self, stamp, epoch)

    def cleared(self) -> SeedRecord:
        """Return the record of the same slot, empty."""
        return SeedRecord(self.layer, self.index, self.chunk_id)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        shapes = {"in_shape": list(self.in_shape), "out_shape": list(self.out_shape)}
        return asdict(self) | shapes | {"stage": self.stage.value}

    def copy_from(self, other: SeedRecord) -> None:
        """Copy all fields of `other`."""
        for name in (f.name for f in fields(self)):
            setattr(self, name, getattr(other, name))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SeedRecord:
        """Return the record that `to_json` saved; raises `ValueError` or `TypeError` for other data."""
        values = dict(data)
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise ValueError(f"unknown fields in a seed's record: {', '.join(unknown)}")
        if missing := sorted({"layer", "index", "chunk_id", "stage"} - set(values)):
            raise ValueError(f"a seed's record lacks {', '.join(missing)}")
        values["stage"] = SeedStage(values["stage"])
        values["in_shape"] = tuple(values.get("in_shape", ()))
        values["out_shape"] = tuple(values.get("out_shape", ()))
        values["impact"] = Impact(**values["impact"]) if values.get("impact") else None
        return cls(**values)
