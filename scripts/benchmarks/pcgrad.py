"""What PCGrad costs beside a plain backward and beside torchjd: ratios of medians, interleaved, one thread.

Times are the thread's own, so that others on the machine count little.

    python scripts/benchmarks/pcgrad.py [tasks|accumulation ...] [--rounds N]

tasks         a step with 2, 4, 8 objectives over a shared trunk of some 100 k parameters, each with a head of
              its own: forward, gradients by PCGrad, SGD; against one backward of the sum. Beside it torchjd's
              PCGrad (default, and parallel_chunk_size=1) and a copy of the plain one, which is the noise
accumulation  a step of four micro-batches without aggregation, compared with a loop written by hand
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable

import torch
from overhead import interleaved, ratio
from torch import Tensor, nn

from esper import wrap
from esper.config import SeedConfig
from esper.kasmina import SeedManager
from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.gradients import ConflictStats, PCGrad, PlainBackward, TaskBackward
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, constant
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import RunningMetrics, Task, pair_adapter
from esper.tolaria.training_step import Stepper

CPU = torch.device("cpu")
WIDTH, BATCH = 180, 256


class Trunk(nn.Module):
    """Three hidden layers, 96,000 parameters, and a small head for each task."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        sizes = (64, WIDTH, 2 * WIDTH, 64)
        layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in range(tasks))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {f"task{i}": head(features) for i, head in enumerate(self.heads)}


def losses_of(outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """A cross entropy for each task, each with its own classes."""
    return {n: nn.functional.cross_entropy(o, t) for (n, o), t in zip(outputs.items(), targets, strict=True)}


def esper_step(model: Trunk, x: Tensor, y: Tensor, *, pcgrad: bool) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    parameters, precision = list(model.parameters()), Precision(False, CPU)
    tasks = TaskBackward(
        PCGrad(torch.Generator().manual_seed(0)), precision, lambda: parameters, ConflictStats(CPU, 1.0)
    )
    backward = tasks if pcgrad else PlainBackward(precision)

    def step() -> None:
        backward.begin()
        backward.add(losses_of(model(x), y), 1.0)
        backward.finish()
        optimizer.step()
        optimizer.zero_grad()

    return step


def torchjd_step(model: Trunk, x: Tensor, y: Tensor, chunk: int | None) -> Callable[[], None]:
    from torchjd.aggregation import PCGrad as Oracle
    from torchjd.autojac import jac_to_grad, mtl_backward

    optimizer, aggregator = torch.optim.SGD(model.parameters(), lr=1e-3), Oracle()
    shared = list(model.trunk.parameters())

    def step() -> None:
        features = model.trunk(x)
        outputs = {f"task{i}": head(features) for i, head in enumerate(model.heads)}
        losses = list(losses_of(outputs, y).values())
        own = [list(head.parameters()) for head in model.heads]
        mtl_backward(
            losses, features=features, tasks_params=own, shared_params=shared, parallel_chunk_size=chunk
        )
        jac_to_grad(shared, aggregator)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bench_tasks(rounds: int) -> None:
    for tasks in (2, 4, 8):
        torch.manual_seed(0)
        model = Trunk(tasks)
        x, y = torch.randn(BATCH, 64), torch.randint(0, 10, (tasks, BATCH))
        size = sum(p.numel() for p in model.trunk.parameters())
        actions = {
            "plain": esper_step(copy.deepcopy(model), x, y, pcgrad=False),
            "copy": esper_step(copy.deepcopy(model), x, y, pcgrad=False),
            "esper": esper_step(copy.deepcopy(model), x, y, pcgrad=True),
            "torchjd": torchjd_step(copy.deepcopy(model), x, y, None),
            "torchjd, chunk 1": torchjd_step(copy.deepcopy(model), x, y, 1),
        }
        times = interleaved(actions, rounds, time.thread_time)
        print(f"{tasks} tasks, trunk of {size:,} parameters, batch {BATCH}; by the plain step:")
        for name in ("copy", "esper", "torchjd", "torchjd, chunk 1"):
            print(f"  {name:16} {ratio(times, name, 'plain')}")
        best = min(("torchjd", "torchjd, chunk 1"), key=lambda name: sorted(times[name])[rounds // 2])
        print(f"  {'esper by torchjd':16} {ratio(times, 'esper', best)} ({best})")


def bench_accumulation(rounds: int) -> None:
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU())
    host.append(nn.Linear(2 * WIDTH, 10))
    window = [(torch.randn(BATCH, 64), torch.randint(0, 10, (BATCH,))) for _ in range(4)]
    actions = {
        "hand": hand_step(copy.deepcopy(host), window),
        "copy": hand_step(copy.deepcopy(host), window),
        "esper": stepper_step(copy.deepcopy(host), window),
    }
    times = interleaved(actions, rounds, time.thread_time)
    print("a step of four micro-batches, no aggregation; by the loop written by hand:")
    for name in ("copy", "esper"):
        print(f"  {name:16} {ratio(times, name, 'hand')}")


def hand_step(model: nn.Module, window: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """What the loop does, by hand: forward, loss, sums of loss and hits, scaled backward, rate, step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    total, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)

    def step() -> None:
        samples = sum(len(y) for _, y in window)
        for x, y in window:
            output = model(x)
            loss = nn.functional.cross_entropy(output, y)
            total.add_(loss.detach(), alpha=len(y))
            hits.add_((output.detach().argmax(dim=1) == y).sum())
            (loss * (len(y) / samples)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def stepper_step(host: nn.Module, window: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    model = wrap(host, ["0", "2"])
    model.observe(window[0][0][:2])
    optimizers = OptimizerManager(
        model,
        lambda groups: torch.optim.SGD(groups, lr=1e-3),
        rates=BaseRates(1e-3, 1e-3, 1e-3, 0),
    )
    forward = TrainingForward(
        model, compile_model=False, backend="eager", batch_size=BATCH, on_fallback=lambda why: None
    )
    rate = LearningRate(constant(Horizon(10, 5)))
    precision, loss = Precision(False, CPU), nn.functional.cross_entropy
    stepper = Stepper(
        forward, optimizers, SeedManager(model, SeedConfig()), rate, Task(loss, pair_adapter, precision, CPU)
    )
    meter = RunningMetrics(CPU)
    return lambda: [stepper.step(window, [meter], 1), None][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["tasks", "accumulation"])
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    benches = {"tasks": bench_tasks, "accumulation": bench_accumulation}
    for what in args.what:
        benches[what](args.rounds)


if __name__ == "__main__":
    main()
