"""GroMo's grow-TINY on the same data, batches, optimiser, schedule and accounting as every other arm.

The hidden layers of an MLP grow together, by as many units after each of the first epochs. GroMo's model is
no host to which seeds could be attached, so this arm has its own loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gromo.containers.growing_mlp import GrowingMLP
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper import TolariaConfig, runs
from esper.data import DataBundle
from esper.runs.process import process_settings
from esper.tolaria.optimization.lr_schedule import Horizon
from esper.utils.device_and_rng import resolve_device, seed_everything, versions

START, STEP, EVENTS = 16, 8, 6
STATISTICS_BATCHES = 50
SCALES = (0.25, 0.5, 1.0, 2.0)  # of the line search over the size of new units


class Tiny:
    """One training run; `measured` holds what a row of the results holds."""

    def __init__(self, config: TolariaConfig) -> None:
        self.config = config
        device = resolve_device(config.device)
        self.data: DataBundle = runs.build_dataset(config, seed=config.seed, device=device)
        seed_everything(config.seed)
        size = self.data.info.input_shape
        assert size is not None and self.data.info.num_classes is not None
        pixels = int(torch.Size(size).numel())
        self.model = GrowingMLP(
            pixels, self.data.info.num_classes, START, 2, activation=nn.GELU(), device=device
        )
        self.loss = nn.CrossEntropyLoss()
        epochs, steps = config.optimization.max_epochs, len(self.data.train)
        self.schedule = runs.schedule_factory(config)(Horizon(epochs * steps, steps))
        self.step = 0
        self.flops = 0.0
        self.param_steps = 0
        self.growth_s = 0.0
        self._renew()

    def _renew(self) -> None:
        """An optimiser of all parameters: an old one would go on with the old tensors alone."""
        group = {"params": list(self.model.parameters()), "base_lr": self.config.optimization.learning_rate}
        self.optimizer = runs.optimizer_factory(self.config)([group])
        self.params = sum(p.numel() for p in self.model.parameters())
        x, y = self._some(1)[0]
        with FlopCounterMode(display=False) as counter:
            self.loss(self.model(x), y).backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.per_sample = counter.get_total_flops() / len(y)

    def epoch(self, number: int) -> None:
        self.model.train()
        for x, y in self.data.train.batches(number):
            self.schedule.apply(self.optimizer, self.step)
            self.loss(self.model(x), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.param_steps += self.params
            self.flops += self.per_sample * len(y)

    def accuracy(self, batches: Iterator[Any]) -> float:
        self.model.eval()
        hits = total = 0
        with torch.no_grad():
            for x, y in batches:
                hits += int((self.model(x).argmax(1) == y).sum())
                total += len(y)
        return hits / total

    def grow(self, number: int) -> None:
        """New units in front of the second and of the third layer, sized by a line search."""
        began = time.process_time()
        self.model.eval()
        batches = self._some(STATISTICS_BATCHES, number)
        for layer in range(len(self.model._growable_layers)):
            self.model.set_growing_layers(index=layer)
            self._gather(batches)
            self.model.compute_optimal_updates(
                maximum_added_neurons=STEP, compute_delta=False, statistical_threshold=0.0
            )
            self.model.dummy_select_update()
            self._search(batches[:8])
            self.model.apply_change()
            self.model.reset_computation()
        self._renew()
        self.growth_s += time.process_time() - began

    def _gather(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.model.init_computation()
        for number, (x, y) in enumerate(batches):
            with self._counted(len(batches) if number == 0 else 0):
                self.model.zero_grad(set_to_none=True)
                self.loss(self.model(x), y).backward()
                self.model.update_computation()
        self.model.zero_grad(set_to_none=True)

    def _search(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        losses = {}
        with torch.no_grad(), self._counted(1):
            for scale in SCALES:
                self.model.set_scaling_factor(scale)
                losses[scale] = sum(self.loss(self.model.extended_forward(x), y).item() for x, y in batches)
        self.model.set_scaling_factor(min(losses, key=lambda scale: losses[scale]))

    @contextmanager
    def _counted(self, times: int) -> Iterator[None]:
        """Charge the block's FLOPs so many times over."""
        if not times:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops += times * counter.get_total_flops()

    def _some(self, count: int, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
        found = []
        for batch in self.data.train.batches(epoch):
            found.append(batch)
            if len(found) == count:
                break
        return found


def train(config: TolariaConfig) -> dict[str, Any]:
    """The whole run; the test set is read once, with the epoch of the final size that validates best."""
    with process_settings(config):
        tiny = Tiny(config)
        began, began_wall = time.process_time(), time.perf_counter()
        curve: list[float] = []
        best: dict[str, Tensor] = {}
        for number in range(1, config.optimization.max_epochs + 1):
            tiny.epoch(number)
            curve.append(tiny.accuracy(tiny.data.validation.batches(0)))
            if number <= EVENTS:
                tiny.grow(number)
            elif curve[-1] >= max(curve[EVENTS:]):
                best = {name: t.clone() for name, t in tiny.model.state_dict().items()}
        spent = time.process_time() - began, time.perf_counter() - began_wall
        tiny.model.load_state_dict(best)
        return {
            "test": tiny.accuracy(tiny.data.test.batches(0)),
            "val": max(curve[EVENTS:]),
            "val_curve": curve,
            "params": tiny.params,
            "params_last": tiny.params,
            "param_epochs": tiny.param_steps / len(tiny.data.train),
            "flops": tiny.flops,
            "cpu_s": spent[0],
            "wall_s": spent[1],
            "overhead_s": {"growth": tiny.growth_s},
            "seeds": [],
            "topology": [],
            "versions": versions(),
        }
