"""What a run has cost so far: time, FLOPs and parameter-steps, exact through changes of topology."""

from __future__ import annotations

import time

from esper.kasmina import MorphableModel
from esper.leyline import SeedStage
from esper.tolaria.flops import count_flops
from esper.tolaria.probe import Probe
from esper.tolaria.progress import Progress
from esper.tolaria.room import seed_flops


class Account:
    """Adds up costs in `progress`.

    FLOPs are counted anew, lazily, after a change of topology, and where other parameters of the model are
    frozen than before: no gradients of these are computed.
    """

    def __init__(self, model: MorphableModel, progress: Progress, probe: Probe) -> None:
        self.model = model
        self.progress = progress
        self.probe = probe
        self.topology_changed()
        self._began = self._began_cpu = 0.0

    def start_clock(self) -> None:
        """From now on time counts, on top of what an earlier part of the run took."""
        self._began = time.perf_counter() - self.progress.wall_s
        self._began_cpu = time.process_time() - self.progress.cpu_s

    def read_clock(self) -> None:
        """Bring the times in `progress` up to date."""
        self.progress.wall_s = time.perf_counter() - self._began
        self.progress.cpu_s = time.process_time() - self._began_cpu

    def topology_changed(self) -> None:
        self.params = self.model.total_params()
        self._parameters = list(self.model.parameters())
        self._trained: list[bool] = []
        self._flops: tuple[float, float] | None = None

    def step(self, samples: int, passes: int = 1) -> None:
        """One optimiser step on so many samples, with so many backward passes a forward."""
        forward, both = self.per_sample()
        self.progress.samples_seen += samples
        self.progress.param_steps += self.params
        self.progress.train_flops += samples * (both + (passes - 1) * (both - forward))

    def forwards(self, samples: int) -> None:
        """Forwards made for the seeds' sake: health probes and impact."""
        self.progress.train_flops += samples * self.per_sample()[0]

    def per_sample(self) -> tuple[float, float]:
        """FLOPs of a forward, and of a step, for one sample at the present topology."""
        trained = [p.requires_grad for p in self._parameters]
        if self._flops is None or trained != self._trained:
            self._trained = trained
            forward, both = count_flops(self.model, self.probe.loss, self.probe.samples, self.probe.judge)
            # an isolated seed is not on the probe's way: its own forward, and backward at twice its price
            self._flops = forward, both + 3 * self._isolated()
        return self._flops

    def _isolated(self) -> int:
        total = 0
        for r in self.model.living():
            if r.stage is SeedStage.TRAINING:
                total += seed_flops(r)
        return total
