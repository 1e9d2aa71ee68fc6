"""What Esper costs beside bare PyTorch: ratios of medians, interleaved in one process on one thread.

    python scripts/benchmarks/overhead.py [step|epoch|graft|health ...] [--rounds N]

step    a training step of a wrapped model with dormant seeds, of the bare one, and of a copy of the latter
        (whose ratio is the spread of the measurement)
epoch   an epoch of esper's own loop with all records on against a hand-written loop of the same arithmetic,
        again beside a second copy of the hand-written one
graft   germinate to ready, optimiser included, in ms
health  one round of health signals, in ms a layer, beside the probe's own forward and backward
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from esper import TolariaConfig
from esper.kasmina import HealthMonitor, SeedManager, TrainingPosition, wrap
from esper.leyline import AdaptationCommand, CommandKind
from esper.models import build
from esper.runs.checked_run import check
from esper.runs.context import RunContext
from esper.runs.job import Job

IMAGES = {"convnet": (1, 28, 128), "resnet18": (3, 32, 16)}
TARGETS = {"convnet": ["block?"], "resnet18": ["layer?"]}


def host_and_batch(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    channels, side, batch = IMAGES[name]
    torch.manual_seed(0)
    model = build(name, num_classes=10, channels=channels, image_size=(side, side))
    return model, torch.randn(batch, channels, side, side), torch.randint(0, 10, (batch,))


def interleaved(
    actions: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each action by `clock`, one of each a round, in an order that turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for action in actions.values():
        action()
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            began = clock()
            actions[name]()
            times[name].append(clock() - began)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> str:
    value = statistics.median(times[name]) / statistics.median(times[base])
    pairs = sorted(a / b for a, b in zip(times[name], times[base], strict=True))
    low, high = pairs[len(pairs) // 4], pairs[-1 - len(pairs) // 4]
    return f"{value:.4f} (quartiles of the pairs {low:.3f} to {high:.3f})"


def bench_step(rounds: int) -> None:
    for name in IMAGES:
        bare, x, y = host_and_batch(name)
        models = {"bare": bare, "copy": copy.deepcopy(bare), "wrapped": wrap(bare, TARGETS[name])}
        times = interleaved({k: step_of(m, x, y) for k, m in models.items()}, rounds)
        median = 1e3 * statistics.median(times["bare"])
        print(f"step {name}: bare {median:.2f} ms, wrapped/bare {ratio(times, 'wrapped', 'bare')}")
        print(f"     {name}: the spread, copy/bare {ratio(times, 'copy', 'bare')}")


def step_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()

    def step() -> None:
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def epoch_config(name: str) -> dict[str, Any]:
    channels, side, batch = IMAGES[name]
    samples = {"convnet": 12_800, "resnet18": 320}[name]
    return {
        "dataset": {
            "name": "synthetic",
            "batch_size": batch,
            "use_augmentation": False,
            "dataset_params": {"channels": channels, "image_size": side, "samples": samples},
        },
        "model": {"architecture": name, "target_layers": TARGETS[name]},
        "optimization": {"optimizer": "adamw", "max_epochs": 10_000, "early_stopping_patience": 0},
        "morphogenetic": {
            "decision_frequency": 1,
            "adaptation_cooldown": 0.0,
            "confidence_threshold": 1.0,  # everything is measured and decided, nothing grows
        },
        "checkpoint": {"checkpoint_frequency": 10_000},
        "logging": {"use_tensorboard": True, "step_interval": 10, "progress": True},
    }


def hand_loop(job: Job) -> Callable[[], None]:
    """The same arithmetic, written by hand: same loaders, same optimiser, same sums."""
    assert job.run is not None
    components = job.run.components
    model = copy.deepcopy(components.model.host)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    loss_of = nn.CrossEntropyLoss()
    epoch = 0

    def run() -> None:
        nonlocal epoch
        epoch += 1
        model.train()
        total, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for x, y in components.train.batches(epoch):
            output = model(x)
            loss = loss_of(output, y)
            total.add_(loss.detach(), alpha=len(y))
            hits += (output.detach().argmax(dim=1) == y).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        with torch.no_grad():
            for x, y in components.validation.batches(0):
                output = model(x)
                total.add_(loss_of(output, y), alpha=len(y))
                hits += (output.argmax(dim=1) == y).sum()
        total.item(), hits.item()

    return run


def bench_epoch(rounds: int) -> None:
    for name in IMAGES:
        config = TolariaConfig.from_dict(epoch_config(name))
        with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("w") as nowhere:
            job = Job(check(config, folder), context=RunContext(console=Console(file=nowhere)))
            with job:
                run = job.prepare()
                actions = {"esper": run.epoch, "hand": hand_loop(job), "copy": hand_loop(job)}
                times = interleaved(actions, rounds)
        median = statistics.median(times["hand"])
        print(f"epoch {name}: by hand {median:.2f} s, esper/hand {ratio(times, 'esper', 'hand')}")
        print(f"      {name}: the spread, copy/hand {ratio(times, 'copy', 'hand')}")


def bench_graft(rounds: int) -> None:
    from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager

    for name in IMAGES:
        host, x, y = host_and_batch(name)
        layer = TARGETS[name][0].replace("?", "2")
        spent = []
        for i in range(rounds + 1):
            model = wrap(host, TARGETS[name])
            model.observe(x[:2])
            manager = SeedManager(model, TolariaConfig().morphogenetic.seed)
            optimizers = OptimizerManager(
                model,
                lambda groups: torch.optim.AdamW(groups, lr=1e-3),
                rates=BaseRates(1e-3, 1e-3, 1e-3, 100),
            )
            nn.functional.cross_entropy(model(x[:2]), y[:2]).backward()
            optimizers.main.step()
            command = AdaptationCommand(
                f"{i}",
                CommandKind.GERMINATE,
                1.0,
                1.0,
                "bench",
                layer,
                0,
                "conv_heavy",
                options={"hidden": 16},
            )
            began = time.perf_counter()
            optimizers.apply(manager.apply(command, TrainingPosition(1, 0)), 1)
            spent.append(1e3 * (time.perf_counter() - began))
        middle, worst = statistics.median(spent[1:]), max(spent)
        print(f"graft {name}: median {middle:.1f} ms, worst of {rounds + 1}, first included, {worst:.1f} ms")


def bench_health(rounds: int) -> None:
    for name in IMAGES:
        host, x, y = host_and_batch(name)
        model = wrap(host, TARGETS[name])
        model.observe(x[:2])
        monitor = HealthMonitor(model, 10)
        probe_x, probe_y = x[:16], y[:16]

        def probe(m: nn.Module = model, a: torch.Tensor = probe_x, b: torch.Tensor = probe_y) -> torch.Tensor:
            return nn.functional.cross_entropy(m(a), b)

        def plain(m: nn.Module = model, run: Callable[[], torch.Tensor] = probe) -> None:
            m.eval()
            torch.autograd.grad(run(), list(m.parameters()))

        def full(take: HealthMonitor = monitor, run: Callable[[], torch.Tensor] = probe) -> None:
            take.measure(run, 16)

        times = interleaved({"health": full, "plain": plain}, rounds)
        extra = statistics.median(times["health"]) - statistics.median(times["plain"])
        print(
            f"health {name}: {1e3 * statistics.median(times['health']):.2f} ms in all, "
            f"{1e3 * extra / len(model.sites):.3f} ms a layer above the probe's own passes"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["step", "epoch", "graft", "health"])
    parser.add_argument("--rounds", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    benches = {"step": bench_step, "epoch": bench_epoch, "graft": bench_graft, "health": bench_health}
    rounds = {"step": 40, "epoch": 7, "graft": 20, "health": 20}
    for what in args.what:
        benches[what](args.rounds or rounds[what])


if __name__ == "__main__":
    main()
