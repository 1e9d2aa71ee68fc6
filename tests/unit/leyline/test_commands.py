from __future__ import annotations

import math

import pytest

from esper.leyline import AdaptationCommand, CommandKind, Outcome, Refusal


@pytest.mark.parametrize("name", ["confidence", "urgency"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_confidence_and_urgency_lie_between_0_and_1(name: str, value: float) -> None:
    """Each command carries both."""
    numbers = {"confidence": 0.5, "urgency": 0.5} | {name: value}
    with pytest.raises(ValueError, match=rf"{name} is {value}; it must lie in \[0, 1\]"):
        AdaptationCommand("1", CommandKind.CULL, reason="", **numbers)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_are_allowed(value: float) -> None:
    command = AdaptationCommand("1", CommandKind.CULL, value, value, "")
    assert (command.confidence, command.urgency) == (value, value)


def test_an_outcome_is_applied_exactly_where_nothing_refused_it() -> None:
    command = AdaptationCommand("1", CommandKind.CULL, 1.0, 1.0, "")
    assert Outcome(command, None, "", 0, 0).applied
    assert not any(Outcome(command, refusal, "", 0, 0).applied for refusal in Refusal)
