"""What saving, snapshots and going back cost a run: interleaved in one process, by medians.

    python scripts/benchmarks/saving.py [convnet|resnet18 ...] [--rounds N] [--threads N]

copy      a `copy_` of all that is saved into memory that is kept: what `state_dict()` of model and optimiser
          give, tensor by tensor; "bare" without asking for it
save      what `Store.save` holds the loop up for; beside it a save's whole stall: that, and by how much the
          steps during the write in the background were slower than others
snapshot  `Snapshots.take`
back      `Rollback.back` to a snapshot, and whether the snapshot is unchanged after ten more steps
deadline  `Rollback.back(250)` where the disk takes ten seconds
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from esper import TolariaConfig
from esper.runs.checked_run import check
from esper.runs.context import RunContext
from esper.runs.job import Job
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.discovery import load_latest
from esper.tolaria.checkpoint.registry import Tensors
from esper.tolaria.checkpoint.rollback import Rollback
from esper.tolaria.checkpoint.snapshots import Snapshot, Snapshots
from esper.tolaria.loop import TrainingLoop

SHAPES = {"convnet": (1, 28), "resnet18": (3, 32)}
BATCH = {"convnet": 128, "resnet18": 16}
LIMIT_BYTES = 4 << 30


def config_of(name: str) -> TolariaConfig:
    config = TolariaConfig()
    config.model.architecture = name
    config.model.target_layers = ["block?" if name == "convnet" else "layer?"]
    config.dataset.name = "synthetic"
    channels, side = SHAPES[name]
    config.dataset.dataset_params = {"channels": channels, "image_size": side, "samples": 2000}
    config.dataset.batch_size = BATCH[name]
    config.checkpoint.checkpoint_frequency = 1
    config.checkpoint.max_checkpoints = 2
    config.logging.progress = False
    return config


class Bench:
    """A run that is stepped by hand, and its stopwatch."""

    def __init__(self, run: TrainingLoop) -> None:
        self.run = run
        self.windows = self._windows()
        self.kept: list[Tensor] = []
        self.times: dict[str, list[float]] = {}

    def _windows(self) -> Iterator[list[Any]]:
        epoch = 0
        while True:
            epoch += 1
            yield from self.run.train_batches.windows(epoch, 0, 1)

    def step(self) -> None:
        run = self.run
        run.stepper.step(next(self.windows), [run.meter], run.progress.step)
        run.progress.step += 1

    def timed(self, name: str, action: Callable[[], Any]) -> float:
        began = time.perf_counter()
        action()
        took = 1e3 * (time.perf_counter() - began)
        self.times.setdefault(name, []).append(took)
        return took

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])


def one_round(bench: Bench, steps: int) -> None:
    run = bench.run
    for _ in range(steps):
        bench.timed("step", bench.step)
    bench.timed("copy", partial(copy_state, run, bench.kept))
    sources = state_of(run)
    bench.timed("bare copy", partial(copy_all, bench.kept, sources))
    run.progress.epoch += 1
    saving = bench.timed("save", lambda: run.checkpointer.save(run.progress))
    slower = 0.0
    while run.checkpointer.busy:
        slower += bench.timed("step in write", bench.step) - bench.median("step")
    bench.times.setdefault("stall", []).append(saving + slower)
    run.checkpointer.flush()


def state_of(run: TrainingLoop) -> list[Tensor]:
    """The tensors of model and optimiser."""
    entries = run.optimizers.main.state_dict()["state"].values()
    return [*run.model.state_dict().values(), *(t for entry in entries for t in entry.values())]


def copy_state(run: TrainingLoop, kept: list[Tensor]) -> None:
    copy_all(kept, state_of(run))


def copy_all(kept: list[Tensor], sources: list[Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(kept, sources, strict=True):
            target.copy_(source)


def going_back(bench: Bench, rounds: int) -> str:
    run = bench.run
    snapshots = Snapshots(LIMIT_BYTES, run.state, run.checkpointer.metadata.make)
    rollback = Rollback(run.state, snapshots, run.checkpointer)
    unchanged = True
    for _ in range(rounds):
        for _ in range(2):
            bench.step()
        bench.timed("snapshot", lambda: snapshots.take(run.progress))
        snapshots.mark_good(run.progress.step)
        held = snapshots.nearest(run.progress.step)
        assert held is not None
        before = copy.deepcopy(held.tensors)
        for _ in range(3):
            bench.step()
        bench.timed("back", lambda: succeed(rollback))
        for _ in range(10):
            bench.step()
        unchanged &= same(held, before)
    return "unchanged" if unchanged else "CHANGED"


def deadline(bench: Bench) -> None:
    """Without a snapshot, and with a disk that answers only after the deadline."""
    run, go = bench.run, threading.Event()

    def slow(folder: Path, step: int) -> Checkpoint:
        go.wait(10)
        return load_latest(folder, step)

    for _ in range(5):
        go.clear()
        rollback = Rollback(
            run.state,
            Snapshots(LIMIT_BYTES, run.state, run.checkpointer.metadata.make),
            run.checkpointer,
            read=slow,
        )
        bench.timed("deadline", partial(exceed, rollback))
        go.set()


def exceed(rollback: Rollback) -> None:
    assert rollback.restore(250).deadline_exceeded


def succeed(rollback: Rollback) -> None:
    result = rollback.restore(1e6)
    assert result.ok, result


def same(held: Snapshot, before: Tensors) -> bool:
    return all(
        torch.equal(t, before[name][path]) for name, g in held.tensors.items() for path, t in g.items()
    )


def bench(name: str, rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Job(check(config_of(name), folder), context=RunContext(console=Console(quiet=True))) as job,
    ):
        run = job.prepare()
        run.model.train()
        made = Bench(run)
        for _ in range(3):
            made.step()
        run.best.consider(1, 1.0, 0.1)
        made.kept = [torch.empty_like(t) for t in state_of(run)]
        steps = 30 if name == "convnet" else 6
        one_round(made, steps)
        made.times.clear()
        for _ in range(rounds):
            one_round(made, steps)
        size = sum(t.nbytes for t in made.kept) / 1e6
        made.kept.clear()
        deadline(made)
        verdict = going_back(made, max(2, rounds // 3))
    m = made.median
    print(f"{name}: {size:.1f} MB to copy; step {m('step'):.1f} ms")
    print(f"  copy_ {m('copy'):.2f} ms, bare {m('bare copy'):.2f} ms; save {m('save'):.2f} ms")
    print(f"  save is {m('save') / m('copy'):.2f} of copy_, {m('save') / m('bare copy'):.2f} of the bare one")
    print(f"  stall of a save {m('stall'):.2f} ms")
    print(f"  step in write {m('step in write'):.1f} ms ({m('step in write') / m('step'):.3f} of step)")
    print(f"  snapshot {m('snapshot'):.2f} ms, {verdict} ten steps after going back to it")
    print(f"  back {m('back'):.1f} ms, at most {max(made.times['back']):.1f}")
    print(f"  deadline of 250 ms: {m('deadline'):.1f} ms, at most {max(made.times['deadline']):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.models:
        bench(name, args.rounds)


if __name__ == "__main__":
    main()
