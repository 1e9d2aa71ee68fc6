"""Scenarios in which as many pieces of state as possible are in use when they are stopped (R3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults.harness.fault_counts import FaultCounts
from faults.harness.omission import Scenario, omissions, pieces, stopped
from faults.harness.poison import Poison
from faults.harness.watching import Watching
from helpers.objectives import Heads, heads_loss
from helpers.runs import PlannedPolicy, germinate, make_run, seed_command
from torch import Tensor, nn

from esper.leyline import AdaptationCommand, CommandKind, SystemStatePacket
from esper.tamiyo import RandomPolicy
from esper.tolaria.gradients import PCGrad
from esper.tolaria.loop import TrainingLoop


class Decoy:
    """State that is saved and not needed: its omission must have no effect."""

    def __init__(self, run: TrainingLoop) -> None:
        self.run = run

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.run.progress.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Gambler(PlannedPolicy):
    """Makes the width of a seed depend on every generator of the process and on the seeds' health."""

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        commands = super().decide(packet) if packet.step % 6 == 0 or not packet.epoch else []
        pairs = [random.gauss(0, 1) for _ in range(1 + (packet.step == 3))]
        drawn = [pairs[0], np.random.normal(), torch.randn(()).item()]
        drawn += [seed.health.gradient_norm for seed in packet.seeds if seed.health is not None]
        if packet.step == 15:
            widths = [abs(int(1e6 * number)) % 3 for number in drawn[:6]]
            hidden = 1 + sum(width * 3**i for i, width in enumerate(widths))
            commands.append(germinate("block2", number=50, seed_index=2, options={"hidden": hidden}))
        return commands


class Scaled(nn.Module):
    """Cross entropy so large that fp16 overflows at first."""

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        return 100 * nn.functional.cross_entropy(scores, targets)


_COMMON: dict[str, Any] = {
    "optimization__max_epochs": 3,
    "optimization__scheduler_params": {"warmup_steps": 4},
    "optimization__gradient_clip_norm": 0.5,
    "checkpoint__save_checkpoints": True,
    "checkpoint__checkpoint_frequency": 99,
    "morphogenetic__max_params_ratio": 999.0,
    "morphogenetic__decision_interval_steps": 3,
    "morphogenetic__max_adaptations_per_epoch": 9,
    "morphogenetic__seed__isolation_steps": 3,
    "morphogenetic__seed__blend_steps": 5,
    "morphogenetic__seed__embargo_epochs": 2,
    "logging__step_interval": 5,
}


def convnet(folder: Path) -> TrainingLoop:
    """fp16; stopped at step 14, a seed is in isolation, another blends, and a slot is embargoed."""
    commands = {
        0: [germinate(), germinate("block2", number=2)],
        1: [seed_command(CommandKind.CULL, number=3, seed_index=0), germinate(number=4, seed_index=1)],
        2: [germinate("block2", number=5, seed_index=1)],
    }
    loss = {"loss": Scaled()}
    options = {"mixed_precision": "fp16", "model__seeds_per_layer": 3}
    return make_run(folder, tamiyo=Gambler(commands), notes=Watching(), parts=loss, **_COMMON | options)


def mlp(folder: Path) -> TrainingLoop:
    """Dropout draws from torch's generator, the policy from its own; its memory is that of 34 steps."""
    options = {
        "model__architecture": "mlp",
        "model__model_params": {"hidden": [16, 16], "dropout": 0.3},
        "model__target_layers": ["body.fc1", "body.fc2"],
        "morphogenetic__blueprints": ["mlp", "low_rank"],
        "morphogenetic__performance_window": 2,
        "morphogenetic__max_adaptations_per_epoch": 1,
        "optimization__optimizer": "sgd",
        "optimization__learning_rate": 0.05,
        "trainer__limit_train_batches": 12,
    }
    judge = {"min_gain": 0.9, "min_confidence": 0.1, "confirmations": 3, "patience_epochs": 9}
    policy = RandomPolicy(max_seeds=4, latest=1.0, seed=1, **judge)
    return make_run(folder, tamiyo=policy, notes=Watching(), **_COMMON | options)


def poisoned(folder: Path) -> TrainingLoop:
    """It has been brought back once before it is stopped: rates are cut, a layer is barred."""
    poison = Poison("NaN loss", 14, times=1)
    run = make_run(
        folder, tamiyo=PlannedPolicy({1: [germinate()]}), notes=Watching(), parts={"loss": poison}, **_COMMON
    )
    poison.aim(run)
    return run


class HeadsLoss(nn.Module):
    """Both heads' cross entropy; in validation it grows with the epochs, so that the first is the best."""

    run: TrainingLoop | None = None

    def forward(self, output: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        losses = heads_loss(output, targets)
        if self.run is not None and not self.run.model.training:
            losses["odd"] = losses["odd"] + 10.0 * self.run.progress.epoch
        return losses


def two_headed(folder: Path) -> TrainingLoop:
    """Gradients are combined in an order that is drawn; one change an epoch is all that is allowed."""
    commands = {
        0: [germinate("trunk.1", "mlp")],
        1: [seed_command(CommandKind.PAUSE, "trunk.1", number=2, pause_epochs=1)],
        2: [germinate("digit", "mlp", number=3), germinate("digit", "mlp", number=4, seed_index=1)],
        3: [germinate("digit", "mlp", number=5, seed_index=1)],
    }
    return _heads(folder, commands, morphogenetic__max_adaptations_per_epoch=1)


def impatient(folder: Path) -> TrainingLoop:
    """The best epoch is the first, and patience runs out; three seeds fail, and growth is held back."""
    commands = {
        0: [germinate("trunk.1", "mlp")],
        1: [germinate("trunk.1", "mlp", number=2), germinate("digit", "mlp", number=3)],
        2: [
            germinate("digit", "mlp", number=4),
            seed_command(CommandKind.PAUSE, "trunk.1", number=5, pause_epochs=3),
        ],
    }
    factory = FailingFactory()
    factory.run = _heads(folder, commands, factory, optimization__early_stopping_patience=2)
    return factory.run


class FailingFactory:
    """Makes optimisers, but none during the first nine steps."""

    run: TrainingLoop | None = None

    def __call__(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.run is not None and 0 < self.run.progress.step < 10:
            raise RuntimeError("an optimiser of the user's that fails")
        return torch.optim.SGD(groups, lr=0.01)


def _heads(
    folder: Path,
    commands: Mapping[int, list[AdaptationCommand]],
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    **options: Any,
) -> TrainingLoop:
    torch.manual_seed(0)
    loss = HeadsLoss()
    aggregator = PCGrad(torch.Generator().manual_seed(3))
    parts = {"aggregator": aggregator, "loss": loss, "optimizer": optimizer}
    given = {"model__target_layers": ["trunk.1", "digit"], "morphogenetic__blueprints": ["mlp"]}
    plan = PlannedPolicy(commands)
    loss.run = make_run(
        folder, tamiyo=plan, model=Heads(), notes=Watching(), parts=parts, **_COMMON | given | options
    )
    return loss.run


SCENARIOS: dict[Scenario, int] = {convnet: 14, mlp: 34, poisoned: 16, two_headed: 16, impatient: 16}

# What may be left out, and why that is no loss.
_CLOCK = "it reads the clock"
_WEIGHTED = "the losses of these scenarios are divided by samples (test_resume.py)"
_CONSTANT = "it only says again what the configuration says"
UNMISSED: dict[str, str] = {
    "control/tamiyo/times": "they are drawn from the policy's seed, which the configuration holds",
    "flops/host": "it is counted again, and only a blueprint that declares a false cost makes that another",
    "governor/skipped": "it counts overflows in a row, and the row is over when a step succeeds",
    "health/latency_ms": _CLOCK,
    "health/latency_ms/of a seed": _CLOCK,
    "health/throughput": _CLOCK,
    "health/throughput/of a seed": _CLOCK,
    "meter/weighted/hits": _WEIGHTED,
    "meter/weighted/loss": _WEIGHTED,
    "meter/weighted/objectives": _WEIGHTED,
    "optimizers/meta/class": _CONSTANT,
    "optimizers/trainable/frozen": "nothing thaws or freezes in these scenarios (test_trainable.py)",
    "optimizers/trainable/pending": "nothing thaws or freezes in these scenarios (test_trainable.py)",
    "recovery/emergency/reason": "an emergency that is over has none",
    "recovery/emergency/time": _CLOCK,
    "run/progress/cpu_s": _CLOCK,
    "run/progress/round_due": "only a stop in the midst of a look ahead sets it (test_scout.py)",
    "run/progress/stopped_by": "the stop request was for the process that saved",
    "run/progress/wall_s": _CLOCK,
    "scaler/scaler/backoff_factor": _CONSTANT,
    "scaler/scaler/growth_factor": _CONSTANT,
    "scaler/scaler/growth_interval": _CONSTANT,
    "schedule/horizon/steps_per_epoch": _CONSTANT,
    "schedule/horizon/total_steps": "it matters where a run is given more epochs (test_schedule.py)",
}


def left_out(folder: Path, *, decoy: bool = False) -> FaultCounts:
    """R3: every piece of state, left out of scenarios until one misses it; with `decoy` only the decoy."""
    counts, missed, known = FaultCounts("R3"), set[str](), set[str]()
    for scenario, step in SCENARIOS.items():
        case = stopped(with_decoy(scenario) if decoy else scenario, folder / scenario.__name__, step)
        omissions(case, missed, counts, only="decoy" if decoy else "")
        known |= pieces(case.saved).keys()
    if decoy:
        known = {name for name in known if name.startswith("decoy")}
        counts.fired = counts.tries
    for name in sorted(known - missed - UNMISSED.keys()):
        counts.wrong.append(f"no run needs {name}")
    for name in sorted(UNMISSED.keys() & missed) if not decoy else ():
        counts.wrong.append(f"{name} is missed after all")
    return counts


def with_decoy(scenario: Scenario) -> Scenario:
    """The same scenario with one more owner of state."""

    def made(folder: Path) -> TrainingLoop:
        run = scenario(folder)
        run.state.register("decoy", Decoy(run))
        return run

    return made
