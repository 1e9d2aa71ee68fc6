"""What it costs to know whose gradient it is: steps with attribution on beside steps with it off.

    python scripts/benchmarks/attribution.py [--rounds N] [--models mlp convnet resnet18]

Blocks of `SAMPLE_STEPS` steps, one of which is looked at, are interleaved in one process on one thread:
`off` (trainer.seed_weighting=none), `report`, `apply`, `layers` (report with layer summaries) and a second
`off`, whose ratio is the spread of the measurement. Every model has a joined seed at two layers; `mlp` is
the smallest there is, 784-16-16-10, where a step is short. `x2` are windows of two micro-batches, where
conflicts are counted, too. Ratios of medians of processor time, which a busy machine does not stretch; and
what attribution takes by itself, which no noise of the steps hides.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from overhead import IMAGES, TARGETS, host_and_batch, ratio
from torch import nn

from esper.config import SeedConfig
from esper.kasmina import SeedManager, TrainingPosition, wrap
from esper.leyline import AdaptationCommand, CommandKind
from esper.models import build
from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.gradients import PlainBackward
from esper.tolaria.gradients.seed_attribution import SAMPLE_STEPS, SeedAttribution
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, constant
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import RunningMetrics, Task, pair_adapter
from esper.tolaria.training_step import Stepper

CPU = torch.device("cpu")
# The seed that is grown, and where.
SEEDS = {"mlp": ("mlp", ["nn.Linear"])} | {name: ("conv_light", TARGETS[name]) for name in IMAGES}
ARMS = {"off": None, "report": (False, 0), "apply": (True, 0), "layers": (False, 5), "off again": None}


class Bench:
    """One model with two joined seeds, and its steps."""

    def __init__(
        self, name: str, host: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], arm: str
    ) -> None:
        self.batch = batch
        blueprint, targets = SEEDS[name]
        model = wrap(copy.deepcopy(host), targets)
        model.observe(batch[0][:2])
        seeds = SeedManager(model, SeedConfig(blend_steps=0))
        optimizers = OptimizerManager(
            model,
            lambda groups: torch.optim.AdamW(groups, lr=1e-3),
            rates=BaseRates(1e-3, 1e-3, 1e-3, 0),
        )
        for number, layer in enumerate(model.get_layer_names()[:2]):
            command = AdaptationCommand(
                str(number), CommandKind.GERMINATE, 1.0, 1.0, "bench", layer, 0, blueprint
            )
            optimizers.apply(seeds.apply(command, TrainingPosition(0, 0)), 0)
        precision = Precision(False, CPU)
        options = ARMS[arm]
        attribution = None
        if options is not None:
            attribution = SeedAttribution(optimizers, seeds, CPU, apply=options[0], layers=options[1])
        forward = TrainingForward(
            model, compile_model=False, backend="eager", batch_size=len(batch[1]), on_fallback=print
        )
        self.stepper = Stepper(
            forward,
            optimizers,
            seeds,
            LearningRate(constant(Horizon(10, 5))),
            Task(nn.CrossEntropyLoss(), pair_adapter, precision, CPU),
            backward=PlainBackward(precision, attribution),
        )
        self.meter = RunningMetrics(CPU)
        self.at = 0

    def steps(self, microbatches: int) -> None:
        size = len(self.batch[1]) // microbatches
        window = list(zip(*(part.split(size) for part in self.batch), strict=True))
        for _ in range(SAMPLE_STEPS):
            self.stepper.step(window, [self.meter], self.at)
            self.at += 1


def interleaved(benches: dict[str, Bench], rounds: int, microbatches: int) -> dict[str, list[float]]:
    """Processor seconds of a block of each, in an order that turns."""
    times: dict[str, list[float]] = {name: [] for name in benches}
    names = list(benches)
    for made in benches.values():
        made.steps(microbatches)
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            began = time.process_time()
            benches[name].steps(microbatches)
            times[name].append(time.process_time() - began)
    return times


def cost(made: Bench, microbatches: int, blocks: int = 60) -> float:
    """Milliseconds that attribution itself takes, a step, on gradients that stand still."""
    attribution = made.stepper.attribution
    assert attribution is not None
    x, y = made.batch
    nn.functional.cross_entropy(made.stepper.forward.model(x), y).backward()
    spent = []
    for _ in range(blocks):
        began = time.process_time()
        for _ in range(SAMPLE_STEPS):
            for _ in range(microbatches if microbatches > 1 else 0):
                attribution.microbatch()
            attribution.before_step()
        spent.append(1e3 * (time.process_time() - began) / SAMPLE_STEPS)
    return statistics.median(spent)


def host_of(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    if name != "mlp":
        return host_and_batch(name)
    torch.manual_seed(0)
    host = build("mlp", num_classes=10, channels=1, image_size=(28, 28), hidden=[16, 16])
    return host, torch.randn(128, 1, 28, 28), torch.randint(0, 10, (128,))


def bench(name: str, rounds: int) -> None:
    host, x, y = host_of(name)
    for microbatches in (1, 2):
        arms = {arm: Bench(name, host, (x, y), arm) for arm in ARMS}
        times = interleaved(arms, rounds, microbatches)
        base = 1e3 * statistics.median(times["off"]) / SAMPLE_STEPS
        print(f"{name} x{microbatches}: a step {base:.2f} ms")
        for arm in list(ARMS)[1:]:
            print(f"  {arm}/off {ratio(times, arm, 'off')}")
        for arm in ("report", "apply", "layers"):
            added = cost(arms[arm], microbatches)
            print(f"  {arm} alone: {1e3 * added:.1f} us a step, {100 * added / base:.2f} % of one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mlp", "convnet", "resnet18"])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models:
        bench(name, args.rounds)


if __name__ == "__main__":
    main()
