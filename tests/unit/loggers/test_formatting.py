from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Event, EventName, Level
from esper.loggers.formatting import decimal, duration, format_event, percent, seed_name


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (9.6, "0:10"), (59.7, "1:00"), (3599.9, "1:00:00"), (-3, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_a_duration_reads_back(seconds: float) -> None:
    parts = [int(part) for part in duration(seconds).split(":")]
    assert sum(part * 60**place for place, part in enumerate(reversed(parts))) == round(seconds)
    assert all(part < 60 for part in parts[1:])


def test_numbers_that_are_not_there() -> None:
    assert (percent(None), decimal(None)) == ("-", "-")
    assert (percent(0.8765), decimal(1234.5), decimal(0.01)) == ("87.6%", "1234.", "0.01000")


def test_a_seed_is_its_layer_and_number() -> None:
    assert seed_name({"layer": "blocks.1", "seed": 2}) == "blocks.1[2]"


def test_seeds_and_commands_are_described_in_one_line(make_move: Any, make_command: Any) -> None:
    """One line for each adaptation and each change of a seed's stage."""
    assert format_event(make_move("blending", "probationary")) == (
        "seed f.1[0] mlp: blending -> probationary (the gate was open)"
    )
    assert format_event(make_move("training", "blending")) is None, "the command's own line contains it"
    assert format_event(make_command(reason="loss\nis flat")) == (
        "applied germinate f.1[0] mlp (confidence 0.90, urgency 0.62): loss is flat"
    )
    refused = make_command(refusal="max_adaptations_per_epoch", detail="2 of 2 are used")
    assert format_event(refused) == "refused germinate f.1[0] mlp: max_adaptations_per_epoch, 2 of 2 are used"
    pause = make_command(kind="pause", layer="", blueprint="")
    assert format_event(pause) == "applied pause (confidence 0.90, urgency 0.62): loss is flat"


def test_other_events_have_no_line() -> None:
    assert format_event(Event(0.0, EventName.GATE, Level.INFO, 0, 0, {})) is None


def test_a_rollback_and_a_halt_say_why() -> None:
    """A rollback and a halt are one sentence each."""
    data = {"reason": "the loss is nan at step 9", "rollbacks": 2, "failed_step": 9}
    data |= {"learning_rate_scale": 0.25, "embargoed": "f.1#0"}
    assert format_event(Event(0.0, EventName.ROLLBACK_DONE, Level.WARNING, 6, 0, data)) == (
        "rollback 2 from step 9: the loss is nan at step 9; learning rates x0.25, seed f.1#0 is kept out"
    )
    data["embargoed"] = None
    assert "kept out" not in str(format_event(Event(0.0, EventName.ROLLBACK_DONE, Level.WARNING, 6, 0, data)))
    halt = Event(0.0, EventName.EMERGENCY_HALT, Level.ERROR, 6, 0, {"reason": "the loss is nan at step 9"})
    assert format_event(halt) == "halted: the loss is nan at step 9"
