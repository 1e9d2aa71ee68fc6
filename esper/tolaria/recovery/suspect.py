"""Which seed a failure is put down to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from esper.kasmina import SeedRecord
from esper.leyline import SeedStage


def find_culprit(records: Iterable[SeedRecord], since_step: int, tensors: Sequence[str]) -> SeedRecord | None:
    """The seed of a failed run that is to be kept out of the next try, if any.

    `records` are the seeds that lived when it failed, `since_step` is where the run goes back to, `tensors`
    name the weights that are no numbers. Where all of these are one seed's, it is that seed; else the
    youngest of those that were blending or have joined the host since. A fossilised seed is part of the host.
    """
    loose = [r for r in records if r.alive and r.stage is not SeedStage.FOSSILIZED]
    if (owner := next((r for r in loose if _owns_all(r, tensors)), None)) is not None:
        return owner
    joined = [r for r in loose if _has_just_joined(r, since_step)]
    return max(joined, key=lambda r: (r.germinated_step, r.stage_step), default=None)


def _owns_all(record: SeedRecord, tensors: Sequence[str]) -> bool:
    return bool(tensors) and all(name.startswith(f"seeds.{record.key}.") for name in tensors)


def _has_just_joined(record: SeedRecord, since_step: int) -> bool:
    return record.stage is SeedStage.BLENDING or (record.joined and record.stage_step >= since_step)
