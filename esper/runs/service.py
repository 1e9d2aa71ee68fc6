"""A training run as a service: started, watched, paused and stopped from another thread or event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from torch import nn

from esper.config import TolariaConfig
from esper.control.health_probe import ServiceProbes
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer


class TolariaService:
    """Trains on one thread of its own, and answers while it does; nothing is printed but log lines.

    `config`, `model` and `run_dir` are those of `TolariaTrainer`, which checks them at once. A service
    runs once. As a context manager it is stopped at the end of the block. Each method `name` has a twin
    `name_async` for an event loop, which it never blocks.
    """

    def __init__(
        self, config: TolariaConfig, *, model: nn.Module | None = None, run_dir: str | Path | None = None
    ) -> None:
        self._config = config
        self._trainer = TolariaTrainer(
            config, model=model, run_dir=run_dir, context=RunContext(console=Console(quiet=True))
        )
        # not a daemon: a process that ends waits for the run, so that no save is cut short
        self._thread = threading.Thread(target=self._work, name="esper-training")
        self._began: float | None = None
        self._ended: float | None = None
        self._summary: dict[str, Any] = {}
        self._error: BaseException | None = None
        s = config.services
        urls = {
            "urza": config.urza_url,
            "tamiyo": config.morphogenetic.tamiyo_url or config.tamiyo_url,
            "oona": config.oona_redis_url,
        }
        self._probes = ServiceProbes(urls, s.probe_timeout_s, s.probe_interval_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _work(self) -> None:
        try:
            self._summary = self._trainer.run_training()
        except BaseException as error:  # noqa: BLE001 - kept, told by the status and raised again by wait()
            self._error = error
        finally:
            self._ended = time.monotonic()

    # -- the run ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to train. Raises `RuntimeError` for a second start."""
        if self._began is not None:
            raise RuntimeError("this service has been started before; make a new one for another run")
        self._began = time.monotonic()
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The run's summary, once it has ended; what the run raised is raised here.

        Raises `TimeoutError` where it is still running after `timeout_s`, `RuntimeError` before `start`.
        """
        self._require_start()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the run has not ended within {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        return dict(self._summary)

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ask the run to save and end after the present step, and wait for its thread to be gone.

        Does nothing where none is running. Raises `TimeoutError` where it needs longer; it will still end.
        """
        if self._began is None:
            return
        self._trainer.stop()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the run was asked to stop and has not ended within {timeout_s:g} s")

    def pause_training(self) -> None:
        """Hold the run after the present step. Raises `RuntimeError` before `start`."""
        self._require_start()
        self._trainer.pause()

    def resume_training(self) -> None:
        """Let a paused run go on. Raises `RuntimeError` before `start`."""
        self._require_start()
        self._trainer.resume()

    def _require_start(self) -> None:
        if self._began is None:
            raise RuntimeError("the service has not been started; call start() first")

    # -- what can be asked -----------------------------------------------------------------------

    def get_training_status(self) -> dict[str, Any]:
        """The trainer's detailed status; `status` is one of created, starting, running, paused, stopped,
        finished, failed, and `error` says what a failed run raised.
        """
        detailed = self._trainer.get_detailed_status() | {"status": self._status()}
        if self._error is not None:
            detailed["error"] = f"{type(self._error).__name__}: {self._error}"
        return detailed

    def _status(self) -> str:
        if self._error is not None:
            return "failed"
        status = self._trainer.get_status()
        return "starting" if status == "created" and self._began is not None else status

    def health_check(self) -> dict[str, Any]:
        """How the service and those beside it are.

        `status` is healthy, unhealthy (the run failed) or stopped (none is running); `uptime` is seconds
        since the start, to the end of the run; `last_check` is when the external services were asked, in
        seconds since 1970, at most `services.probe_interval_s` ago. Each of these is healthy,
        unhealthy (HTTP n) or unreachable, and gets `services.probe_timeout_s` to answer.
        """
        external = self._probes.check()
        health = "healthy" if self._thread.is_alive() else "stopped"
        return {
            "service": "tolaria",
            "status": "unhealthy" if self._error is not None else health,
            "uptime": self._uptime(),
            "last_check": self._probes.last_check,
            "session_name": self._config.session_name,
            "trainer_status": self._status(),
            "external_services": external,
        }

    def _uptime(self) -> float:
        if self._began is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._began

    def get_config(self) -> dict[str, Any]:
        """Every option of the run, by group; a copy."""
        return self._config.to_dict()

    # -- the same for an event loop --------------------------------------------------------------

    async def start_async(self) -> None:
        self.start()

    async def wait_async(self, timeout_s: float | None = None) -> dict[str, Any]:
        """`wait`, which can be cancelled: the run then goes on."""
        self._require_start()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive() and (end is None or time.monotonic() < end):
            await asyncio.sleep(0.02)
        if self._thread.is_alive():
            raise TimeoutError(f"the run has not ended within {timeout_s:g} s")
        return self.wait()

    async def stop_async(self, timeout_s: float = 60.0) -> None:
        await asyncio.to_thread(self.stop, timeout_s)

    async def pause_training_async(self) -> None:
        self.pause_training()

    async def resume_training_async(self) -> None:
        self.resume_training()

    async def get_training_status_async(self) -> dict[str, Any]:
        return self.get_training_status()

    async def health_check_async(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.health_check)

    async def get_config_async(self) -> dict[str, Any]:
        return self.get_config()
