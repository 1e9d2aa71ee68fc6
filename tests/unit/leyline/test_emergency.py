from __future__ import annotations

import json

import pytest

from esper.leyline import EmergencyLevel, EmergencySignal


def test_levels_are_those_of_the_spec() -> None:
    names = {level.name.lower(): level.value for level in EmergencyLevel}
    assert names == {"none": 0, "notice": 1, "elevated": 2, "conservative": 3, "halt": 4}


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_a_level_is_known_by_its_number(level: int) -> None:
    assert EmergencyLevel.of(level) == level


@pytest.mark.parametrize("level", [-1, 5, True, 1.5, "2"])
def test_an_unknown_level_is_rejected(level: object) -> None:
    with pytest.raises(ValueError, match="is unknown; expected one of 0 none"):
        EmergencyLevel.of(level)  # type: ignore[arg-type]


def test_a_signal_is_json() -> None:
    signal = EmergencySignal("run", EmergencyLevel.HALT, "why", 1.5, 7, 2)
    assert json.loads(json.dumps(signal.to_json())) == {
        "session_name": "run",
        "level": 4,
        "reason": "why",
        "time": 1.5,
        "step": 7,
        "epoch": 2,
    }
