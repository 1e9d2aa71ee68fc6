"""A job that can start from a grown topology, and reports the cost of growth itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from esper import TolariaConfig
from esper.data import DataBundle
from esper.kasmina import MorphableModel
from esper.runs.checked_run import check
from esper.runs.context import RunContext
from esper.runs.job import Job
from esper.runs.resume import ResumePoint
from esper.tolaria.growth.epoch_hooks import Growth
from esper.tolaria.loop import TrainingLoop
from growth_arms.topology import attach


class Stopwatch:
    """CPU seconds spent inside the methods it watches, by label; a call within a call of a label once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: set[str] = set()

    def watch(self, owner: object, method: str, label: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)
        self.seconds.setdefault(label, 0.0)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if label in self._inside:
                return inner(*args, **kwargs)
            self._inside.add(label)
            began = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[label] += time.process_time() - began
                self._inside.discard(label)

        setattr(owner, method, timed)


class MeasuredJob(Job):
    """A job whose model starts with the seeds of `topology`, at full strength."""

    def __init__(
        self,
        config: TolariaConfig,
        run_dir: Path,
        console: Console,
        topology: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(check(config, run_dir), context=RunContext(console=console))
        self.topology = topology
        self.stopwatch = Stopwatch()

    def build_model(self, data: DataBundle) -> MorphableModel:
        model = super().build_model(data)
        if self.topology:
            model.observe(next(iter(data.validation.batches(0)))[0][:2])
            attach(model, self.topology)
        return model

    def prepare(self, origin: ResumePoint | None = None, *, dry: bool = False) -> TrainingLoop:
        run = super().prepare(origin, dry=dry)
        if run.growth is not None:
            self._watch(run.growth)
        return run

    def _watch(self, growth: Growth) -> None:
        for method in ("end_of_epoch", "within_epoch"):
            self.stopwatch.watch(growth, method, "growth")
        self.stopwatch.watch(growth.packets, "build", "decisions")
        self.stopwatch.watch(growth.controller, "decide", "decisions")
        if growth.controller.select is not None:
            self.stopwatch.watch(growth.controller, "select", "lookahead")
        if growth.monitor is not None:
            self.stopwatch.watch(growth.monitor, "measure", "health")
