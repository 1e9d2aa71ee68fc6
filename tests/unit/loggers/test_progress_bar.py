from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import esper
from esper.leyline import Event, EventName, Level
from esper.loggers import ProgressBar, RunInfo


class Stage:
    """A display on a console in memory, with a clock that the test moves."""

    def __init__(self, info: RunInfo, width: int, *, terminal: bool, enabled: bool = True) -> None:
        self.file = io.StringIO()
        console = Console(file=self.file, width=width, height=30, force_terminal=terminal, color_system=None)
        self.now = 0.0
        self.display = ProgressBar(console, enabled, lambda: self.now)
        self.display.start(info)

    def frames(self) -> list[list[str]]:
        """Everything that was drawn, split where the display went back to its first line."""
        parts = re.split(r"\r(?:\x1b\[[12][KA])+", self.file.getvalue())
        return [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", part).strip("\n").split("\n") for part in parts]

    def close(self) -> list[str]:
        self.display.close()
        return self.frames()[-1]


@pytest.fixture
def plain(make_info: Callable[..., RunInfo]) -> Stage:
    return Stage(make_info(), 40, terminal=False)


def test_where_there_is_no_terminal_an_epoch_is_a_line(plain: Stage, make_epoch: Any) -> None:
    """No control characters, no wrapping, one line an epoch."""
    for epoch in (1, 2):
        for step in range(1, 11):
            plain.now += 0.1
            plain.display.progress(step, 0.5)
        plain.display.epoch(make_epoch(epoch))
    plain.close()
    assert plain.file.getvalue().splitlines() == [
        "epoch 1/4  train 1.000 50.0%  val 1.100 40.0%  seeds 1  params 101  320 samples/s  0:03 left",
        "epoch 2/4  train 0.5000 75.0%  val 0.5500 70.0%  seeds 1  params 102  320 samples/s  0:02 left",
    ]


def test_each_adaptation_and_stage_change_is_a_line(plain: Stage, make_move: Any, make_command: Any) -> None:
    plain.display.event(make_command())
    plain.display.event(make_command(refusal="paused"))
    plain.display.event(make_move("dormant", "germinated"))
    plain.display.event(make_move("blending", "probationary"))
    plain.display.event(Event(0.0, EventName.GATE, Level.INFO, 10, 1, {}))
    assert plain.file.getvalue().splitlines() == [
        "  epoch 1: applied germinate f.1[0] mlp (confidence 0.90, urgency 0.62): loss is flat",
        "  epoch 1: refused germinate f.1[0] mlp: paused",
        "  epoch 1: seed f.1[0] mlp: blending -> probationary (the gate was open)",
    ]


def test_a_task_without_accuracy_has_a_line_too(plain: Stage, make_epoch: Any) -> None:
    plain.display.epoch(make_epoch(1, train_accuracy=None, val_accuracy=None))
    assert "train 1.000 -  val 1.100 -  seeds 1" in plain.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_display_fits_the_terminal(
    make_info: Any, make_epoch: Any, make_move: Any, width: int
) -> None:
    """One live display with loss, accuracy, rate, time left and the seeds."""
    stage = Stage(make_info(), width, terminal=True)
    for step in range(1, 6):
        stage.now += 0.6
        stage.display.progress(step, 0.25)
    layer = "stages.2.blocks.0.convolution2"
    seeds = [{"layer": layer, "seed": 0, "blueprint": "depthwise", "stage": "blending", "alpha": 0.375}]
    stage.display.event(make_move("training", "blending", layer=layer, blueprint="depthwise"))
    stage.display.epoch(make_epoch(1, step=10, seeds=seeds))
    stage.now += 1.0
    stage.display.progress(4, None)
    frame = stage.close()
    assert all(len(line) <= width for line in frame)
    text = "\n".join(frame)
    for part in ("epoch 2/4", "step 14/40", "loss 1.000", "val 1.100 40.0%", "left", "samples/s", "0.38"):
        assert part in text, part
    (row,) = [line for line in frame if "depthwise" in line and "blending" in line and "0.38" in line]
    assert row.lstrip("…").split()[0].endswith("[0]")  # the end of a long name distinguishes layers


def test_the_live_display_is_drawn_twice_a_second_at_most(make_info: Any) -> None:
    """The loop's own thread draws, so that it must be rare."""
    before = threading.active_count()
    stage = Stage(make_info(), 80, terminal=True)
    drawn = len(stage.frames())
    for step in range(1000):
        stage.now += 0.001
        stage.display.progress(step, None)
    assert 1 <= len(stage.frames()) - drawn <= 3
    assert threading.active_count() == before
    stage.close()


def test_seeds_come_and_go(make_info: Any, make_move: Any) -> None:
    stage = Stage(make_info(), 80, terminal=True)
    stage.display.event(make_move("probationary", "fossilized", seed=1))
    stage.display.event(make_move("blending", "culled"))
    both = stage.frames()[-1]
    assert sum("fossilized" in line and "1.00" in line for line in both) == 1
    assert sum("culled" in line and "0.00" in line for line in both) == 1
    stage.display.event(make_move("culled", "embargoed", blueprint=""))
    rows = [line for line in stage.close() if re.search(r"\d\.\d\d$", line.rstrip())]
    assert [row.split()[0] for row in rows] == ["f.1[1]"]


def test_many_seeds_leave_room_for_the_rest(make_info: Any, make_move: Any) -> None:
    stage = Stage(make_info(), 80, terminal=True)
    for seed in range(20):
        stage.display.event(make_move("dormant", "germinated", seed=seed))
    frame = stage.close()
    assert any("and 12 more" in line for line in frame)
    assert len(frame) < 20


def test_a_continued_run_counts_from_where_it_is(make_info: Any) -> None:
    stage = Stage(make_info(start_step=25, resumed=True), 80, terminal=True)
    stage.now = 1.0
    stage.display.progress(6, None)
    text = "\n".join(stage.close())
    assert "epoch 3/4" in text and "step 26/40" in text
    assert "32 samples/s  0:14 left" in text  # one step in this session's one second


@pytest.mark.parametrize("terminal", [True, False])
def test_switched_off_it_says_nothing(
    make_info: Any, make_epoch: Any, make_move: Any, terminal: bool
) -> None:
    """Logging.progress=false."""
    stage = Stage(make_info(), 80, terminal=terminal, enabled=False)
    stage.display.progress(1, 0.5)
    stage.display.event(make_move("dormant", "germinated"))
    stage.display.epoch(make_epoch(1))
    stage.display.close()
    assert stage.file.getvalue() == ""


_PIPED = """
import sys, time
from pathlib import Path
from rich.console import Console
from esper.loggers import ProgressBar, RunInfo

display = ProgressBar(Console(), True)
display.start(RunInfo(session_name="s", run_dir=Path(), config={}, max_epochs=9, steps_per_epoch=1,
                      samples_per_epoch=1, params_host=1, start_step=0))
sys.stdin.readline()  # the reader has gone by now
for epoch in range(1, 4):
    display.epoch({"epoch": epoch, "step": epoch})
display.close()
print("the run went on", file=sys.stderr)
"""


def test_a_run_outlives_the_reader_of_its_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _PIPED],
        env={"PYTHONPATH": str(Path(esper.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, message = process.communicate("\n", timeout=30)
    assert (process.returncode, message) == (0, "the run went on\n")
