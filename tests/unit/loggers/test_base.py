from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import esper
from esper.leyline import Event, EventName, Level
from esper.loggers import Logger

_PROGRAM = """
import sys
import esper.loggers
heavy = {"torch", "numpy", "tensorboard", "wandb", "matplotlib", "esper.tolaria", "esper.kasmina"}
print(sorted(heavy & set(sys.modules)))
"""


def test_the_room_loads_without_its_heavy_libraries() -> None:
    """The package loads without torch; logging libraries are imported where they are used."""
    environment = {"PYTHONPATH": str(Path(esper.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", _PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sink_need_only_say_what_it_cares_for(make_info: Any, make_epoch: Any) -> None:
    class OnlyEvents(Logger):
        def __init__(self) -> None:
            self.name = "events"
            self.seen: list[Event] = []

        def event(self, event: Event) -> None:
            self.seen.append(event)

    logger = OnlyEvents()
    logger.start(make_info())
    logger.epoch(make_epoch(1))
    logger.step({"step": 1})
    logger.event(Event(0.0, EventName.NOTICE, Level.INFO, 0, 0))
    logger.finish({})
    logger.close()
    assert len(logger.seen) == 1
    assert logger.state() == {}
