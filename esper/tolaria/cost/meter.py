"""The cost of a run so far: time, FLOPs and parameter-steps, exact through changes of topology.

If FLOPs cannot be counted, the sum is unknown (None), because a number would be too low.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from esper.kasmina import MorphableModel
from esper.leyline import SeedStage
from esper.tolaria.cost.budget import seed_flops
from esper.tolaria.cost.flops import count_flops
from esper.tolaria.measurements import Measurements
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.train_state import Progress


class CostMeter:
    """Adds up costs in `progress`.

    FLOPs are counted again, lazily, after a change of topology and when other parameters are frozen, because
    their gradients are not computed.

    Args:
        model: the growing model.
        progress: the counters of the run.
        probe: the probe batch.
        measurements: catches a failing count; without it the exception is raised.
    """

    def __init__(
        self,
        model: MorphableModel,
        progress: Progress,
        probe: ProbeBatch,
        measurements: Measurements | None = None,
    ) -> None:
        self.model = model
        self.progress = progress
        self.probe = probe
        self.measurements = measurements
        self._flops: tuple[float, float] | None = None
        self.topology_changed()
        self._start = self._start_cpu = 0.0

    def start_clock(self) -> None:
        """Start the clocks, adding to the times of earlier parts of the run."""
        self._start = time.perf_counter() - self.progress.wall_s
        self._start_cpu = time.process_time() - self.progress.cpu_s

    def read_clock(self) -> None:
        """Update the times in `progress`."""
        self.progress.wall_s = time.perf_counter() - self._start
        self.progress.cpu_s = time.process_time() - self._start_cpu

    def topology_changed(self) -> None:
        self.params = self.model.total_params()
        self._parameters = list(self.model.parameters())
        self._trained: list[bool] | None = None

    def step(self, samples: int, passes: int = 1) -> None:
        """Add an optimiser step on so many samples, with so many backward passes per forward."""
        self.progress.samples_seen += samples
        self.progress.param_steps += self.params
        flops = self.per_sample()
        if flops is not None:
            forward, both = flops
            self.add(samples * (both + (passes - 1) * (both - forward)))
        else:
            self.add(None)

    def spent(self) -> tuple[float | None, int]:
        """FLOPs and parameter-steps so far, for `charge`; also updates the times."""
        self.read_clock()
        return self.progress.train_flops, self.progress.param_steps

    def charge(self, spent: tuple[float | None, int]) -> None:
        """Set the costs to those before a rollback: undone work was done nevertheless."""
        self.progress.train_flops, self.progress.param_steps = spent
        self.read_clock()

    def add_forwards(self, samples: int) -> None:
        """Add forwards made for measurements of seeds: health probes and impact."""
        forward = self.forward_flops()
        self.add(None if forward is None else samples * forward)

    def add(self, flops: float | None) -> None:
        """Add FLOPs; None, for an unknown number, makes the sum unknown."""
        total = self.progress.train_flops
        self.progress.train_flops = None if flops is None or total is None else total + flops

    def forward_flops(self) -> float | None:
        """FLOPs of a forward of one sample; None if they could not be counted."""
        flops = self.per_sample()
        return None if flops is None else flops[0]

    def per_sample(self) -> tuple[float, float] | None:
        """FLOPs of a forward, and of a step, for one sample at the present topology; None if unknown."""
        trained = [p.requires_grad for p in self._parameters]
        if trained != self._trained:
            self._trained = trained
            self._flops = self._try(self._count)
        return self._flops

    def _try(self, count: Callable[[], tuple[float, float]]) -> tuple[float, float] | None:
        return count() if self.measurements is None else self.measurements.take("train_flops", count)

    def _count(self) -> tuple[float, float]:
        forward, both = count_flops(self.model, self.probe.loss, self.probe.samples, self.probe.loss_function)
        # the probe does not include isolated seeds: their forward, and a backward of twice its cost
        return forward, both + 3 * self._isolated()

    def _isolated(self) -> int:
        total = 0
        for r in self.model.alive_records():
            if r.stage is SeedStage.TRAINING:
                total += seed_flops(r)
        return total
