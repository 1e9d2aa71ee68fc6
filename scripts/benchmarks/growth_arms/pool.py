"""Runs that are missing, in parallel processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from growth_arms.arms import ESPER, SCRATCH, SWEEP, Spec, arm_hash, arms_of
from growth_arms.rows import Key, Row, append_row, key_of, perform, read_rows
from growth_arms.tasks import Task
from growth_arms.topology import final_topology


def keys(
    tasks: Sequence[Task], arms: Sequence[str], seeds: Sequence[int], swept: int, policy: str
) -> list[Key]:
    """Every requested run, by seed, then task, then arm; `swept` topologies in a sweep."""
    hashes = {(t.name, a): arm_hash(t, a, policy) for t in tasks for a in arms_of(t) if a in arms}
    found: list[Key] = []
    for seed in range(max([*(s + 1 for s in seeds), swept])):
        for (task, arm), digest in hashes.items():
            if (seed < swept) if arm == SWEEP else (seed in seeds):
                found.append((task, arm, seed, digest))
    return found


def run_missing(wanted: Sequence[Key], tasks: dict[str, Task], results: Path, policy: str, jobs: int) -> None:
    """Run what `results` does not hold yet; what starts from esper's end comes after it."""
    for late in (False, True):
        stage = [key for key in wanted if (key[1] == SCRATCH) is late]
        done = {key_of(row): row for row in read_rows(results)}
        specs = [_spec(key, tasks[key[0]], policy, done) for key in stage if key not in done]
        for row in _performed([spec for spec in specs if spec is not None], jobs):
            append_row(results, row)
            print(result_line(row), flush=True)


def result_line(row: Row) -> str:
    """A finished run in a line."""
    return (
        f"{row['task']} {row['arm']} {row['seed']}: test {100 * row['test']:.2f} %, "
        f"val {100 * row['val']:.2f} %, {row['params']:,} parameters, {row['cpu_s']:.1f} CPU s"
    )


def _spec(key: Key, task: Task, policy: str, done: dict[Key, Row]) -> Spec | None:
    """The run of a key; None where it needs an esper run that there is not."""
    _, arm, seed, _ = key
    if arm != SCRATCH:
        return Spec(task, arm, seed, policy)
    grown = done.get((task.name, ESPER, seed, arm_hash(task, ESPER, policy)))
    return None if grown is None else Spec(task, arm, seed, policy, tuple(final_topology(grown["seeds"])))


def _performed(specs: Sequence[Spec], jobs: int) -> Iterator[Row]:
    # spawned: a forked process would inherit torch's threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_worker) as pool:
        futures = {pool.submit(perform, spec): spec for spec in specs}
        failed = []
        for future in as_completed(futures):
            if (error := future.exception()) is None:
                yield future.result()
            else:
                spec = futures[future]
                failed.append(f"{spec.task.name} {spec.arm} {spec.seed}: {type(error).__name__}: {error}")
    if failed:
        raise RuntimeError("these runs failed, the others are kept: " + "; ".join(sorted(failed)))


def _worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Do not outlive a parent that was killed: the row would be lost."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
