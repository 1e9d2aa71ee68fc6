"""What came out, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from growth_arms.arms import ARMS, ESPER, RANDOM, SCHEDULED, SWEEP
from growth_arms.notes import notes
from growth_arms.rows import Row, of_arm
from growth_arms.statistics import holm, paired_t, sign_flip
from growth_arms.tasks import Task

CLAIMED = (RANDOM, SCHEDULED)  # the family that Holm's correction is made over, on all tasks together
_HEAD = (
    "| arm | runs | test % | validation % | parameters | parameter-epochs, k | TFLOPs | CPU s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def report(tasks: Sequence[Task], rows: Sequence[Row]) -> str:
    """Tables of all tasks, tests of esper against every control, ranks, times and overhead."""
    parts = [_task_table(task, [row for row in rows if row["task"] == task.name]) for task in tasks]
    parts += [tests_table(tasks, rows)]
    parts += [notes(task, [row for row in rows if row["task"] == task.name]) for task in tasks]
    return "\n\n".join(part for part in parts if part)


def _task_table(task: Task, rows: Sequence[Row]) -> str:
    lines = [f"{task.name}: {task.summary}", "", _HEAD]
    for arm in ARMS:
        own = of_arm(rows, arm)
        if own:
            lines.append(_arm_line(arm, own))
    return "\n".join(lines)


def _arm_line(arm: str, rows: Sequence[Row]) -> str:
    cells = [
        arm,
        str(len(rows)),
        _spread(rows, lambda r: 100 * r["test"], 2),
        _spread(rows, lambda r: 100 * r["val"], 2),
        f"{statistics.mean(r['params'] for r in rows):,.0f}",
        f"{statistics.mean(r['param_epochs'] for r in rows) / 1e3:,.0f}",
        f"{statistics.mean(r['flops'] for r in rows) / 1e12:.3g}",
        f"{statistics.mean(r['cpu_s'] for r in rows):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(rows: Sequence[Row], value: Callable[[Row], float], digits: int) -> str:
    values = [value(row) for row in rows]
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} +- {statistics.stdev(values):.{digits}f}"


def tests_table(tasks: Sequence[Task], rows: Sequence[Row]) -> str:
    """Esper against each control, paired by seed."""
    pairs = {(task.name, arm): pair for task in tasks for arm in ARMS if (pair := _paired(rows, task, arm))}
    if not pairs:
        return ""
    ps = {key: paired_t(*pair) for key, pair in pairs.items()}
    corrected = holm({key: p for key, p in ps.items() if key[1] in CLAIMED})
    lines = [
        "Esper against each control, paired by seed; one-sided t-test, Holm's correction over "
        f"{' and '.join(CLAIMED)} on all tasks, and the exact sign-flip p",
        "",
        "| task | control | pairs | difference, points | p | p, Holm | p, sign flip |",
        "|---|---|---|---|---|---|---|",
    ]
    for (task, arm), (ours, theirs) in pairs.items():
        points = 100 * (statistics.mean(ours) - statistics.mean(theirs))
        after = f"{corrected[task, arm]:.2g}" if (task, arm) in corrected else ""
        cells = [task, arm, str(len(ours)), f"{points:+.2f}", f"{ps[task, arm]:.2g}", after]
        lines.append(f"| {' | '.join([*cells, f'{sign_flip(ours, theirs):.2g}'])} |")
    return "\n".join(lines)


def _paired(rows: Sequence[Row], task: Task, arm: str) -> tuple[list[float], list[float]] | None:
    """Test accuracies of esper and of a control, over the seeds that both have; None without any."""
    if arm in (ESPER, SWEEP):
        return None
    by_seed = [
        {row["seed"]: row["test"] for row in of_arm(rows, name) if row["task"] == task.name}
        for name in (ESPER, arm)
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    return ([by_seed[0][s] for s in seeds], [by_seed[1][s] for s in seeds]) if seeds else None
