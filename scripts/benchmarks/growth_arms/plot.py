"""The picture: test accuracy of every arm, with its spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from growth_arms.arms import ARMS, ESPER, SWEEP
from growth_arms.rows import Row, of_arm
from growth_arms.tasks import Task

_COLOURS, _THEIRS = {ESPER: "#c1440e", SWEEP: "#9aa5b1"}, "#44546a"


def draw(tasks: Sequence[Task], rows: Sequence[Row], path: Path) -> None:
    """One panel a task: means with one standard deviation to both sides, each run a dot."""
    figure = Figure(figsize=(4.2 * len(tasks), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, task in enumerate(tasks, 1):
        axes = figure.add_subplot(1, len(tasks), number)
        _panel(axes, task, [row for row in rows if row["task"] == task.name])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, task: Task, rows: Sequence[Row]) -> None:
    arms = [arm for arm in reversed(ARMS) if of_arm(rows, arm)]
    for height, arm in enumerate(arms):
        values = [100 * row["test"] for row in of_arm(rows, arm)]
        colour = _COLOURS.get(arm, _THEIRS)
        axes.scatter(values, [height] * len(values), s=10, color=colour, alpha=0.35, linewidths=0)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(statistics.mean(values), height, xerr=spread, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms])
    axes.set_title(f"{task.name}: {task.summary.split(';')[0]}", fontsize=8)
    axes.set_xlabel("test accuracy, %")
    axes.grid(axis="x", alpha=0.3)
