"""A profiler over a bounded window of steps; its failures never reach the training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch


class StepProfiler:
    """Profiles `active_steps` steps after three warm-up steps, once per run.

    Writes a Chrome trace with a unique name and a table of the most expensive operators into `folder`.
    Failures are passed to `on_failure` and counted.
    """

    WARMUP_STEPS = 3

    def __init__(self, folder: Path, active_steps: int, on_failure: Callable[[str], None]) -> None:
        self.folder = folder
        self.on_failure = on_failure
        self.emitted = 0
        self.failed = 0
        self._left = self.WARMUP_STEPS + active_steps
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile: torch.profiler.profile | None = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=0, warmup=self.WARMUP_STEPS, active=active_steps, repeat=1),
            on_trace_ready=self._export,
        )
        self._guard(self._profile.start)

    def step(self) -> None:
        """Notify the profiler that an optimizer step is done."""
        if self._profile is None:
            return
        self._left -= 1
        self._guard(self._profile.step)
        if self._left <= 0:
            self.close()

    def close(self) -> None:
        """End the window, also before it is full."""
        profile, self._profile = self._profile, None
        if profile is not None:
            self._guard(profile.stop)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a failed profiler must not end the run
            self.failed += 1
            self._profile = None
            self.on_failure(f"{type(error).__name__}: {error}")

    def _export(self, profile: torch.profiler.profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / f"trace-{time.time_ns()}"
        profile.export_chrome_trace(str(stem.with_suffix(".json")))
        table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        stem.with_suffix(".txt").write_text(table)
        self.emitted += 1
