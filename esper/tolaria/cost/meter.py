"""What a run has cost so far: time, FLOPs and parameter-steps, exact through changes of topology.

FLOPs that cannot be counted make the sum unknown (None): a number would be too low.
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
    """Adds up costs in `progress`. FLOPs are counted anew, lazily, after a change of topology, and where
    other parameters of the model are frozen than before: their gradients are not computed.

    Without `measurements` a count that fails is raised.
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
        """From now on time counts, on top of what an earlier part of the run took."""
        self._start = time.perf_counter() - self.progress.wall_s
        self._start_cpu = time.process_time() - self.progress.cpu_s

    def read_clock(self) -> None:
        """Bring the times in `progress` up to date."""
        self.progress.wall_s = time.perf_counter() - self._start
        self.progress.cpu_s = time.process_time() - self._start_cpu

    def topology_changed(self) -> None:
        self.params = self.model.total_params()
        self._parameters = list(self.model.parameters())
        self._trained: list[bool] | None = None

    def step(self, samples: int, passes: int = 1) -> None:
        """One optimiser step on so many samples, with so many backward passes a forward."""
        self.progress.samples_seen += samples
        self.progress.param_steps += self.params
        flops = self.per_sample()
        if flops is not None:
            forward, both = flops
            self.add(samples * (both + (passes - 1) * (both - forward)))
        else:
            self.add(None)

    def spent(self) -> tuple[float | None, int]:
        """FLOPs and parameter-steps so far, for `charge`; the times are brought up to date."""
        self.read_clock()
        return self.progress.train_flops, self.progress.param_steps

    def charge(self, spent: tuple[float | None, int]) -> None:
        """Count what had been spent before a rollback: the work that it undid was done all the same."""
        self.progress.train_flops, self.progress.param_steps = spent
        self.read_clock()

    def add_forwards(self, samples: int) -> None:
        """Forwards made for the seeds' sake: health probes and impact."""
        forward = self.forward_flops()
        self.add(None if forward is None else samples * forward)

    def add(self, flops: float | None) -> None:
        """Charge so many FLOPs; None where nobody knows how many, and then the sum is not known either."""
        total = self.progress.train_flops
        self.progress.train_flops = None if flops is None or total is None else total + flops

    def forward_flops(self) -> float | None:
        """FLOPs of a forward of one sample; None where they could not be counted."""
        flops = self.per_sample()
        return None if flops is None else flops[0]

    def per_sample(self) -> tuple[float, float] | None:
        """FLOPs of a forward, and of a step, for one sample at the present topology; None where unknown."""
        trained = [p.requires_grad for p in self._parameters]
        if trained != self._trained:
            self._trained = trained
            self._flops = self._try(self._count)
        return self._flops

    def _try(self, count: Callable[[], tuple[float, float]]) -> tuple[float, float] | None:
        return count() if self.measurements is None else self.measurements.take("train_flops", count)

    def _count(self) -> tuple[float, float]:
        forward, both = count_flops(self.model, self.probe.loss, self.probe.samples, self.probe.loss_function)
        # an isolated seed is not on the probe's way: its own forward, and backward at twice its price
        return forward, both + 3 * self._isolated()

    def _isolated(self) -> int:
        total = 0
        for r in self.model.alive_records():
            if r.stage is SeedStage.TRAINING:
                total += seed_flops(r)
        return total
