"""The emergency signals of a run, and where other processes see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.runs import Notes

from esper.leyline import EmergencyLevel
from esper.tolaria.events import Telemetry
from esper.tolaria.recovery.emergency_notifier import EMERGENCY_FILE, EmergencyNotifier


def emergency_notifier(run_dir: Path, notes: Notes) -> EmergencyNotifier:
    return EmergencyNotifier(run_dir, "mine", Telemetry(notes, lambda: 12.5))


def test_levels_are_events_and_stand_in_the_run_folder(tmp_path: Path) -> None:
    notes = Notes()
    made = emergency_notifier(tmp_path, notes)
    made.emergency.escalate(2, "a")
    made.emergency.escalate(4, "b")
    made.close()
    assert [(e.name, e.data["reason"]) for e in notes.events] == [
        ("tolaria.emergency.escalated", "a"),
        ("tolaria.emergency.escalated", "b"),
        ("tolaria.emergency.halt", "b"),
    ]
    found = json.loads((tmp_path / EMERGENCY_FILE).read_text())
    assert found == {"session_name": "mine", "level": 4, "reason": "b", "time": 12.5, "step": 0, "epoch": 0}
    status = made.status()
    assert (status["level"], status["reason"], status["time"], status["halts"]) == (4, "b", 12.5, 1)
    assert status["broadcasts"]["sent"] == 2


def test_broadcasts_that_are_given_up_are_an_event_and_counted(tmp_path: Path) -> None:
    notes = Notes()
    made = emergency_notifier(tmp_path, notes)
    # the file's place is taken by a folder: nothing can be sent
    made.path.mkdir()
    for number in range(70):
        made.emergency.escalate(1 + number % 2, str(number))
    made.report_problems()
    events = [e for e in notes.named("tolaria.emergency.dispatch_error") if "given up" in e.data["reason"]]
    assert [(e.level, e.data["dropped"], e.data["queued"]) for e in events] == [("warning", 6, 64)]
    assert events[0].data["reason"].startswith("6 broadcasts were given up: 64 are waiting; the last of them")
    made.path.rmdir()
    made.close()


def test_a_recovery_is_reported_and_one_without_an_emergency_is_not(tmp_path: Path) -> None:
    notes = Notes()
    made = emergency_notifier(tmp_path, notes)
    made.emergency.recover()
    assert notes.events == []
    made.emergency.escalate(1, "a")
    made.emergency.recover()
    made.close()
    assert notes.events[-1].name == "tolaria.emergency.cleared"
    assert json.loads((tmp_path / EMERGENCY_FILE).read_text())["level"] == 0


def test_a_healthy_run_leaves_no_file(tmp_path: Path) -> None:
    made = emergency_notifier(tmp_path, Notes())
    made.start()
    made.report_problems()
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_part_of_the_run_left_is_over(tmp_path: Path) -> None:
    first = emergency_notifier(tmp_path, Notes())
    first.emergency.escalate(4, "a")
    first.close()
    second = emergency_notifier(tmp_path, Notes())
    second.load_state_dict(first.state_dict())
    second.start()
    second.close()
    assert json.loads((tmp_path / EMERGENCY_FILE).read_text())["level"] == EmergencyLevel.NONE


def test_a_broadcast_that_fails_is_an_event_and_stays_visible(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    notes = Notes()
    made = emergency_notifier(tmp_path / "file", notes)
    made.emergency.escalate(2, "a")
    made.close()
    (event,) = notes.named("tolaria.emergency.dispatch_error")
    assert event.data["queued"] == 1
    assert "Error" in event.data["reason"]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_its_level_is_saved(tmp_path: Path, level: int) -> None:
    first, second = emergency_notifier(tmp_path, Notes()), emergency_notifier(tmp_path, Notes())
    first.emergency.escalate(level, "a")
    first.close()
    second.load_state_dict(first.state_dict())
    assert (second.level, second.reason) == (level, "a")
