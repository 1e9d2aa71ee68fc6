"""A training run as a service: started, watched, paused and stopped from another thread or event loop."""

from __future__ import annotations

import asyncio
import copy
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
    """A training run on a thread of its own, controlled by method calls; prints log lines only.

    A service runs once. As a context manager it is stopped at the end of the block. Each method `name` has an
    equivalent `name_async` for an event loop, which it never blocks.

    Args:
        config: Every option. It is checked at once.
        model: The host network, in place of the configured architecture.
        run_dir: The run's folder; else `config.run_dir`, else `outputs/<date>/<time>`.

    Raises:
        ConfigError: With a sentence for each thing that is wrong with the configuration.

    Example:
        >>> with TolariaService(TolariaConfig.from_yaml("config.yaml")) as service:  # doctest: +SKIP
        ...     service.start()
        ...     print(service.get_training_status()["status"])
        ...     summary = service.wait(timeout_s=3600)
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
        except BaseException as error:  # noqa: BLE001 - kept, shown by the status and raised again by wait()
            self._error = error
        finally:
            self._ended = time.monotonic()

    # -- the run ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the training thread.

        Raises:
            RuntimeError: The service has been started before.
        """
        if self._began is not None:
            raise RuntimeError("this service has been started before; make a new one for another run")
        self._began = time.monotonic()
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for the end of the run. An error that ended it is raised here.

        Args:
            timeout_s: Seconds to wait at most; None: without a limit.

        Returns:
            The content of `summary.json`.

        Raises:
            TimeoutError: The run has not ended within `timeout_s`.
            RuntimeError: The service has not been started.
        """
        self._require_start()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the run has not ended within {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        return dict(self._summary)

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ask the run to save and end after the present step, and wait for the end of its thread.

        Does nothing where no run was started.

        Args:
            timeout_s: Seconds to wait at most.

        Raises:
            TimeoutError: The run has not ended within `timeout_s`; the stop request stands.
        """
        if self._began is None:
            return
        self._trainer.stop()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the run was asked to stop and has not ended within {timeout_s:g} s")

    def pause_training(self) -> bool:
        """Pause the run after the present step.

        Returns:
            Whether that took effect: False where the run is paused already, is ending or has ended.

        Raises:
            RuntimeError: The service has not been started.
        """
        self._require_start()
        return self._trainer.pause()

    def resume_training(self) -> bool:
        """Continue a paused run.

        Returns:
            Whether that took effect: False where the run was not paused.

        Raises:
            RuntimeError: The service has not been started.
        """
        self._require_start()
        return self._trainer.resume()

    def _require_start(self) -> None:
        if self._began is None:
            raise RuntimeError("the service has not been started; call start() first")

    # -- what can be asked -----------------------------------------------------------------------

    def get_training_status(self) -> dict[str, Any]:
        """The status of the run, with position, seeds and best result.

        Returns:
            The entries of `TolariaTrainer.get_detailed_status`. `status` is one of created, starting,
            running, paused, stopped, finished, failed; `error` is the error of a failed run.
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
        """The health of this service and of the external ones.

        Returns:
            `status` is healthy, unhealthy (the run failed) or stopped (none is running); `uptime` is seconds
            from the start to now or to the end of the run; `last_check` is the time of the last probe of the
            external services, in seconds since 1970, at most `services.probe_interval_s` ago.
            `external_services` maps each to healthy, unhealthy (HTTP n) or unreachable, after at most
            `services.probe_timeout_s`; `reasons` says of each unreachable one why.
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
            "reasons": self._probes.reasons,
        }

    def _uptime(self) -> float:
        if self._began is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._began

    def get_config(self) -> TolariaConfig:
        """The configuration of the run.

        Returns:
            A copy; what is changed in it does not reach the run.
        """
        return copy.deepcopy(self._config)

    # -- the same for an event loop --------------------------------------------------------------

    async def start_async(self) -> None:
        self.start()

    async def wait_async(self, timeout_s: float | None = None) -> dict[str, Any]:
        """As `wait`; a cancellation leaves the run running.

        Args:
            timeout_s: Seconds to wait at most; None: without a limit.

        Returns:
            The content of `summary.json`.

        Raises:
            TimeoutError: The run has not ended within `timeout_s`.
            RuntimeError: The service has not been started.
        """
        self._require_start()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive() and (end is None or time.monotonic() < end):
            await asyncio.sleep(0.02)
        if self._thread.is_alive():
            raise TimeoutError(f"the run has not ended within {timeout_s:g} s")
        return self.wait()

    async def stop_async(self, timeout_s: float = 60.0) -> None:
        await asyncio.to_thread(self.stop, timeout_s)

    async def pause_training_async(self) -> bool:
        return self.pause_training()

    async def resume_training_async(self) -> bool:
        return self.resume_training()

    async def get_training_status_async(self) -> dict[str, Any]:
        return self.get_training_status()

    async def health_check_async(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.health_check)

    async def get_config_async(self) -> TolariaConfig:
        return self.get_config()
