"""Finds the seed that probably caused a failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from esper.kasmina import SeedRecord
from esper.leyline import SeedStage


def find_culprit(records: Iterable[SeedRecord], since_step: int, tensors: Sequence[str]) -> SeedRecord | None:
    """The seed that probably caused a failure, or None.

    If one seed owns all tensors that are not finite, it is that seed; else the youngest of those that were
    blending or were activated since `since_step`. A fossilized seed is part of the host.

    Args:
        records: the seeds that were alive when the run failed.
        since_step: the step that the run rolls back to.
        tensors: names of the weights that are not finite.
    """
    candidates = [r for r in records if r.alive and r.stage is not SeedStage.FOSSILIZED]
    if (owner := next((r for r in candidates if _owns_all(r, tensors)), None)) is not None:
        return owner
    joined = [r for r in candidates if _has_just_joined(r, since_step)]
    return max(joined, key=lambda r: (r.germinated_step, r.stage_step), default=None)


def _owns_all(record: SeedRecord, tensors: Sequence[str]) -> bool:
    return bool(tensors) and all(name.startswith(f"seeds.{record.key}.") for name in tensors)


def _has_just_joined(record: SeedRecord, since_step: int) -> bool:
    return record.stage is SeedStage.BLENDING or (record.joined and record.stage_step >= since_step)
