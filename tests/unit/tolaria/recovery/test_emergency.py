"""Levels, triggers, downgrades, recovery."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import EmergencyLevel
from esper.tolaria.recovery.emergency import Emergency


def ticking() -> Iterator[float]:
    yield from (float(second) for second in range(100, 10_000))


def fresh() -> Emergency:
    clock = ticking()
    return Emergency(lambda: next(clock))


def test_a_trigger_always_stamps_its_time() -> None:
    """Also where the level stays."""
    emergency = fresh()
    seen = []
    for level in (2, 1, 2, 3):
        emergency.escalate(level, f"trigger {level}")
        seen.append((int(emergency.level), emergency.reason, emergency.time))
    assert seen == [
        (2, "trigger 2", 100.0),
        (2, "trigger 1", 101.0),
        (2, "trigger 2", 102.0),
        (3, "trigger 3", 103.0),
    ]


@pytest.mark.parametrize("level", [-1, 5, 99, True])
def test_unknown_levels_are_rejected(level: int) -> None:
    emergency = fresh()
    for change in (emergency.escalate, emergency.downgrade):
        with pytest.raises(ValueError, match=r"is unknown; expected one of 0 none, 1 notice, .*4 halt"):
            change(level, "why")
    assert emergency.time is None


def test_no_emergency_is_nothing_to_escalate_to() -> None:
    with pytest.raises(ValueError, match="recover"):
        fresh().escalate(0, "why")


def test_a_downgrade_is_explicit_and_goes_down() -> None:
    emergency = fresh()
    emergency.escalate(3, "bad")
    emergency.downgrade(1, "better")
    assert (int(emergency.level), emergency.reason, emergency.time) == (1, "better", 101.0)
    for level in (1, 2, 0):
        with pytest.raises(ValueError, match="cannot be downgraded"):
            emergency.downgrade(level, "no")


def test_recovery_resets_level_reason_and_time() -> None:
    emergency = fresh()
    emergency.escalate(4, "bad")
    emergency.recover()
    assert (int(emergency.level), emergency.reason, emergency.time) == (0, "", None)


@given(st.lists(st.integers(0, 4), max_size=20))
def test_only_a_downgrade_or_a_recovery_lowers_the_level(levels: list[int]) -> None:
    """0 stands for a recovery."""
    changes: list[tuple[EmergencyLevel, EmergencyLevel]] = []
    emergency = Emergency(lambda: 1.0, lambda old, new: changes.append((old, new)))
    highest = 0
    for level in levels:
        if level:
            emergency.escalate(level, "x")
            highest = max(highest, level)
        else:
            emergency.recover()
            highest = 0
        assert emergency.level == highest
    assert len(changes) == len(levels)
    assert all(new >= old or new == 0 for old, new in changes)


@pytest.mark.parametrize(("level", "after"), [(2, 2), (3, 3), (4, 0)])
def test_a_saved_level_is_taken_up_but_a_halt_is_over(level: int, after: int) -> None:
    saved = fresh()
    saved.escalate(level, "bad")
    taken = fresh()
    taken.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    assert taken.level == after
    assert (taken.reason, taken.time) == (("bad", 100.0) if after else ("", None))
