"""Which seed a failure is put down to."""

from __future__ import annotations

import pytest

from esper.kasmina import SeedRecord
from esper.leyline import SeedStage
from esper.tolaria.recovery.suspect import find_culprit

S = SeedStage


def seed(index: int, stage: SeedStage, born: int, moved: int) -> SeedRecord:
    return SeedRecord("layer", index, index, stage=stage, germinated_step=born, stage_step=moved)


def test_no_culprit_without_seeds() -> None:
    assert find_culprit([], 10, []) is None


@pytest.mark.parametrize(
    ("stage", "moved", "blamed"),
    [
        (S.BLENDING, 5, True),
        (S.BLENDING, 15, True),
        (S.PROBATIONARY, 15, True),
        (S.PROBATIONARY, 5, False),
        (S.TRAINING, 15, False),
        (S.GERMINATED, 15, False),
        (S.FOSSILIZED, 15, False),
    ],
)
def test_a_seed_that_reaches_the_host_since_or_just_now(stage: SeedStage, moved: int, blamed: bool) -> None:
    record = seed(0, stage, 1, moved)
    assert find_culprit([record], 10, []) is (record if blamed else None)


def test_the_youngest_of_several() -> None:
    older, younger = seed(0, S.BLENDING, 3, 3), seed(1, S.BLENDING, 7, 7)
    assert find_culprit([younger, older], 10, []) is younger


def test_the_one_whose_own_weights_are_no_numbers() -> None:
    isolated, blending = seed(0, S.TRAINING, 3, 3), seed(1, S.BLENDING, 7, 7)
    names = [f"seeds.{isolated.key}.body.weight", f"seeds.{isolated.key}.body.bias"]
    assert find_culprit([isolated, blending], 10, names) is isolated
    # it has spread: no longer only its own
    assert find_culprit([isolated, blending], 10, [*names, "host.fc.weight"]) is blending
