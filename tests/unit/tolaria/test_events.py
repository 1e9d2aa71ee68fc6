"""Every event gets its time, step and epoch in one place."""

from __future__ import annotations

from helpers.runs import Notes

from esper.leyline import Event, Level
from esper.tolaria.events import Telemetry


def test_an_event_is_stamped_with_where_the_run_stands() -> None:
    notes, now = Notes(), [5.0]
    telemetry = Telemetry(notes, clock=lambda: now[0])
    telemetry.emit("a", {"x": 1})
    telemetry.step, telemetry.epoch, now[0] = 7, 2, 6.5
    telemetry.warn("b")
    assert notes.events == [
        Event(5.0, "a", Level.INFO, 0, 0, {"x": 1}),
        Event(6.5, "b", Level.WARNING, 7, 2, {}),
    ]


def test_what_is_sent_does_not_change_later() -> None:
    notes, data = Notes(), {"x": 1}
    Telemetry(notes).emit("a", data)
    data["x"] = 2
    assert notes.events[0].data == {"x": 1}
