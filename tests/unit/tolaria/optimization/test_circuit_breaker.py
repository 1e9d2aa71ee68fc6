"""Updates of the optimisers are counted and logged, and repeated failures open a breaker."""

from __future__ import annotations

from helpers.runs import Notes
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.events import Telemetry
from esper.tolaria.optimization.circuit_breaker import FAILURES_TO_OPEN, CircuitBreaker


def rebuilds(recovery_steps: int = 10) -> tuple[CircuitBreaker, Notes]:
    notes = Notes()
    return CircuitBreaker(Telemetry(notes), recovery_steps=recovery_steps), notes


def names(notes: Notes) -> list[str]:
    return [event.name for event in notes.events]


def test_every_outcome_is_counted_and_logged() -> None:
    made, notes = rebuilds()
    made.skip()
    made.success(1, 2.5)
    made.failure(2, 4.0, "ArithmeticError: no room")
    good, bad = notes.events
    assert (good.name, bad.name) == ("tolaria.opt.rebuilt", "tolaria.opt.rebuild_failed")
    assert bad.data == {
        "reason": "ArithmeticError: no room",
        "tolaria.opt.rebuilds_total": 1,
        "tolaria.opt.rebuild_failures_total": 1,
        "tolaria.opt.rebuild_latency_ms": 4.0,
        "tolaria.opt.rebuild_skipped_total": 1,
    }
    assert good.data["tolaria.opt.rebuild_latency_ms"] == 2.5


def test_the_breaker_learns_of_failures_also_after_a_success() -> None:
    """A success between failures does not reset the count."""
    made, notes = rebuilds()
    for step in range(FAILURES_TO_OPEN):
        assert not made.is_open(step)
        assert made.reason == ""
        made.success(step, 1.0)
        made.failure(step, 1.0, "no room")
    assert made.is_open(FAILURES_TO_OPEN)
    assert names(notes)[-2:] == ["tolaria.breaker_opened", "tolaria.conservative_mode_entered"]
    assert notes.events[-2].data["reason"] == "no room"
    assert "3 of the last 6 changes" in made.reason
    assert "until step 12" in made.reason


def opened(at: int = 5) -> tuple[CircuitBreaker, Notes]:
    made, notes = rebuilds()
    for _ in range(FAILURES_TO_OPEN):
        made.failure(at, 1.0, "no room")
    notes.events.clear()
    return made, notes


def test_it_recovers_by_itself_where_the_next_change_succeeds() -> None:
    made, notes = opened(at=5)
    assert [made.is_open(step) for step in (5, 14, 15)] == [True, True, False]
    made.success(15, 1.0)
    assert names(notes)[-1] == "tolaria.conservative_mode_cleared"
    made.failure(16, 1.0, "again")
    assert not made.is_open(17)  # what was before is forgotten


def test_it_opens_again_where_the_next_change_fails() -> None:
    made, notes = opened(at=5)
    made.failure(15, 1.0, "still no room")
    assert names(notes)[1] == "tolaria.breaker_opened"
    assert [made.is_open(step) for step in (15, 24, 25)] == [True, True, False]


def test_a_success_while_it_is_open_does_not_close_it() -> None:
    """Culls are still applied; their success proves nothing about germinations."""
    made, notes = opened(at=5)
    made.success(7, 1.0)
    assert made.is_open(8)
    assert names(notes) == ["tolaria.opt.rebuilt"]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=40), st.integers(0, 40))
def test_a_saved_one_goes_on_as_the_whole_one_would(events: list[tuple[bool, int]], cut: int) -> None:
    """What the breaker counts is part of the state."""
    whole, other = CircuitBreaker(recovery_steps=10), CircuitBreaker(recovery_steps=10)
    step, live = 0, whole
    for number, (good, gap) in enumerate(events):
        if number == cut:
            other.load_state_dict(whole.state_dict())
            live = other
        step += gap
        for each in {id(whole): whole, id(live): live}.values():
            if good:
                each.success(step, 1.0)
            else:
                each.failure(step, 1.0, "")
        assert live.is_open(step) == whole.is_open(step)
        assert live.state_dict() == whole.state_dict()
