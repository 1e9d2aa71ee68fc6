from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.hosts import HELPFUL
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import GrowthError
from esper.kasmina import SeedRecord
from esper.leyline import ALIVE, JOINED, LEGAL_MOVES, Impact, SeedStage

S = SeedStage
numbers = st.floats(allow_nan=False, allow_infinity=False)
shapes = st.lists(st.integers(1, 9), max_size=3).map(tuple)
records = st.builds(
    SeedRecord,
    layer=st.text("abc._0", min_size=1),
    index=st.integers(0, 9),
    chunk_id=st.integers(0, 99),
    stage=st.sampled_from(S),
    blueprint=st.sampled_from(["", "mlp"]),
    options=st.dictionaries(st.text("ab", min_size=1), st.integers() | st.booleans() | numbers, max_size=2),
    in_shape=shapes,
    out_shape=shapes,
    germinated_epoch=st.integers(-1, 9),
    impact=st.none() | st.builds(Impact, numbers, numbers, numbers, st.integers(0, 9)),
    reason=st.text(),
)


@given(records)
def test_a_record_survives_json_exactly(record: SeedRecord) -> None:
    """Topology is plain data."""
    again = SeedRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record
    assert isinstance(again.stage, S) and isinstance(again.in_shape, tuple)


@given(records, records)
def test_a_record_can_copy_another(one: SeedRecord, other: SeedRecord) -> None:
    one.copy_from(other)
    assert one == other


def test_older_records_lack_fields_and_have_their_defaults() -> None:
    data = {"layer": "a", "index": 0, "chunk_id": 3, "stage": "dormant"}
    assert SeedRecord.from_json(data) == SeedRecord("a", 0, 3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"colour": 1, "age": 2}, "unknown fields in a seed's record: age, colour"),
        ({"stage": "asleep"}, "'asleep' is not a valid SeedStage"),
        ({"in_shape": 3}, "not iterable"),
        ({"impact": {"gain": 1}}, "unexpected keyword"),
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        SeedRecord.from_json(SeedRecord("a", 0, 0).to_json() | change)


def test_a_record_must_say_whose_it_is() -> None:
    with pytest.raises(ValueError, match="lacks index, stage"):
        SeedRecord.from_json({"layer": "a", "chunk_id": 0})


@given(st.sampled_from(S), st.sampled_from(S))
def test_it_moves_by_the_table_only(old: SeedStage, new: SeedStage) -> None:
    """Any other pair raises, and changes nothing."""
    record = SeedRecord("a", 0, 0, stage=old, reason="before")
    if new in LEGAL_MOVES[old]:
        record.move(new, step=7, epoch=2, reason="because")
        assert (record.stage, record.stage_step, record.stage_epoch, record.reason) == (new, 7, 2, "because")
    else:
        with pytest.raises(GrowthError):
            record.move(new, step=7, epoch=2, reason="because")
        assert record == SeedRecord("a", 0, 0, stage=old, reason="before")
    assert record.alive == (record.stage in ALIVE) and record.joined == (record.stage in JOINED)


def test_a_life_is_stamped() -> None:
    """Epochs of germination, blend and fossilisation."""
    record = SeedRecord("a", 0, 0)
    for epoch, stage in enumerate([S.GERMINATED, S.TRAINING, S.BLENDING, S.PROBATIONARY, S.FOSSILIZED]):
        record.move(stage, step=epoch, epoch=epoch, reason="")
    assert (record.germinated_epoch, record.blended_epoch, record.fossilized_epoch) == (0, 2, 4)
    assert record.culled_epoch == -1


def test_a_cleared_slot_is_as_new() -> None:
    record = SeedRecord("a", 1, 5, stage=S.EMBARGOED, blueprint="mlp", impact=HELPFUL, error_count=2)
    assert record.cleared() == SeedRecord("a", 1, 5)


def test_keys_tell_slots_apart_and_hold_no_dot() -> None:
    slots = [("a.b", 0), ("a.b", 1), ("a.b.0", 0), ("a", 0)]
    keys = [SeedRecord(layer, index, 0).key for layer, index in slots]
    assert len(set(keys)) == len(keys) and not any("." in key for key in keys)
