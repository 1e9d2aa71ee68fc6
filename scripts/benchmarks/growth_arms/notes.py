"""What a table does not show: the rank in a sweep, times, overhead, and broken caps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from growth_arms.arms import ARMS, ESPER, RANDOM, SCHEDULED, SCRATCH, STATIC_BIG, SWEEP
from growth_arms.rows import Row, of_arm
from growth_arms.statistics import percentile
from growth_arms.tasks import Task


def notes(task: Task, rows: Sequence[Row]) -> str:
    """Lines about one task, from its rows; empty where there is nothing to say."""
    parts = [
        _rank(rows),
        _time_to(task.time_to, rows),
        *_overheads(rows),
        _flops(rows),
        _over_caps(task, rows),
    ]
    return "\n".join(f"{task.name}: {part}" for part in parts if part)


def _rank(rows: Sequence[Row]) -> str:
    swept = [row["test"] for row in of_arm(rows, SWEEP)]
    ours = [row["test"] for row in of_arm(rows, ESPER)]
    if not swept or not ours:
        return ""
    mean = percentile(statistics.mean(ours), swept)
    each = statistics.mean(percentile(value, swept) for value in ours)
    return (
        f"among {len(swept)} random topologies from scratch esper's mean is at percentile {mean:.0f}, "
        f"a single run on average at {each:.0f}; the best of them reached {100 * max(swept):.2f} %, "
        f"their median {100 * statistics.median(swept):.2f} %"
    )


def _time_to(accuracy: float | None, rows: Sequence[Row]) -> str:
    if accuracy is None:
        return ""
    found = [part for arm in ARMS if (part := _first(arm, accuracy, of_arm(rows, arm)))]
    return f"epochs to {100 * accuracy:.0f} % on validation: {', '.join(found)}" if found else ""


def _first(arm: str, accuracy: float, rows: Sequence[Row]) -> str:
    """Mean first epoch of an arm at `accuracy`, over the runs that reach it."""
    first = [next((n for n, v in enumerate(r["val_curve"], 1) if v >= accuracy), 0) for r in rows]
    reached = [epoch for epoch in first if epoch]
    if not reached:
        return ""
    missed = f" ({len(first) - len(reached)} never)" if len(reached) < len(first) else ""
    return f"{arm} {statistics.mean(reached):.1f}{missed}"


def _overheads(rows: Sequence[Row]) -> list[str]:
    return [_overhead(arm, of_arm(rows, arm), of_arm(rows, RANDOM)) for arm in (ESPER, SCHEDULED)]


def _overhead(arm: str, own: Sequence[Row], random: Sequence[Row]) -> str:
    """What growth costs an arm above what it costs the random one, as shares of that one's CPU time."""
    if not own or not random:
        return ""
    base = _mean(random, "cpu_s")
    labels = ("growth", "decisions", "health", "lookahead")
    more = {label: _spent(own, label) - _spent(random, label) for label in labels}
    # looking ahead is done while a decision is carried out
    light = 100 * (more["decisions"] - more["lookahead"] + more["health"]) / base
    return (
        f"CPU time of {arm} above the random arm ({base:.1f} s): health and decisions {light:+.1f} %, "
        f"all of growth {100 * more['growth'] / base:+.1f} %, "
        f"the whole run {100 * (_mean(own, 'cpu_s') / base - 1):+.0f} %"
    )


def _flops(rows: Sequence[Row]) -> str:
    scratch, ours = of_arm(rows, SCRATCH), of_arm(rows, ESPER)
    if not scratch or not ours:
        return ""
    ratio = _mean(ours, "flops") / _mean(scratch, "flops")
    return f"esper used {ratio:.2f} of the FLOPs of its final topology from scratch, probes included"


def _over_caps(task: Task, rows: Sequence[Row]) -> str:
    """Runs of a grown arm that used more than the task allows."""
    big = of_arm(rows, STATIC_BIG)
    flops = max((row["flops"] for row in big), default=None) if task.max_flops is not None else None
    limits = {"params": task.max_params, "param_epochs": task.max_param_epochs, "flops": flops}
    found = [
        f"{row['arm']} {row['seed']} ({name} {row[name]:.3g})"
        for arm in (RANDOM, SCHEDULED, ESPER)
        for row in of_arm(rows, arm)
        for name, limit in limits.items()
        if limit is not None and row[name] > limit
    ]
    return f"over a cap: {', '.join(found)}" if found else ""


def _mean(rows: Sequence[Row], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def _spent(rows: Sequence[Row], label: str) -> float:
    return statistics.mean(row["overhead_s"].get(label, 0.0) for row in rows)
