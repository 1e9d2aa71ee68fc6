"""A run as a service, from other threads and from an event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import small_config
from helpers.services import free_port, hang, http_service, say, tcp_service
from torch import Tensor, nn

import esper
from esper.errors import ConfigError
from esper.runs.service import TolariaService


class Breaks(nn.Module):
    """A user's model that fails in its n-th forward."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.block1 = nn.Linear(64, 8)
        self.block2 = nn.Linear(8, 10)
        self.left = at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError("the model has had enough")
        return self.block2(self.block1(x.flatten(1)).relu())


def make(run_dir: Path, *, model: nn.Module | None = None, **options: Any) -> TolariaService:
    quick = {"logging__log_level": "ERROR", "morphogenetic__tamiyo_enabled": False, "run_dir": str(run_dir)}
    return TolariaService(small_config(**quick | options), model=model)


def endless(run_dir: Path, **options: Any) -> TolariaService:
    return make(run_dir, optimization__max_epochs=100_000, optimization__early_stopping_patience=0, **options)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def steps(service: TolariaService) -> int:
    return int(service.get_training_status().get("step", 0))


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("esper")]


def test_a_run_from_start_to_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = make(tmp_path)
    assert service.get_training_status()["status"] == "created"
    service.start()
    summary = service.wait(timeout_s=60)
    assert summary["epochs_run"] == 3
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    status = service.get_training_status()
    assert (status["status"], status["epoch"], status["stopped_by"]) == ("finished", 3, "max_epochs")
    assert own_threads() == []
    assert capsys.readouterr().out == ""
    service.stop()  # there is nothing left to stop


def test_stop_saves_and_leaves_no_thread(tmp_path: Path) -> None:
    service = endless(tmp_path, checkpoint__save_checkpoints=True)
    service.start()
    until(lambda: steps(service) > 2)
    assert service.get_training_status()["status"] == "running"
    service.stop(timeout_s=20)
    assert own_threads() == []
    assert service.get_training_status()["status"] == "stopped"
    assert service.wait()["stopped_by"] == "stopped"
    assert any((tmp_path / "checkpoints").iterdir())


def test_stop_right_after_start_and_before_it(tmp_path: Path) -> None:
    service = endless(tmp_path)
    service.stop()  # nothing runs yet
    service.start()
    service.stop(timeout_s=20)
    assert service.wait()["steps_run"] == 0


def test_pause_holds_the_run_and_resume_lets_it_go(tmp_path: Path) -> None:
    """Within one batch."""
    with endless(tmp_path) as service:
        service.start()
        until(lambda: steps(service) > 0)
        assert service.pause_training()
        until(lambda: service.get_training_status()["status"] == "paused")
        assert not service.pause_training()  # it is paused already
        time.sleep(0.2)  # the step that was under way
        held = steps(service)
        time.sleep(0.2)
        assert steps(service) == held
        assert service.resume_training()
        assert not service.resume_training()
        until(lambda: steps(service) > held)
        assert service.pause_training()
    # the end of the block stopped it, paused as it was
    assert own_threads() == []


def test_what_the_run_raises_is_kept_and_raised_again(tmp_path: Path) -> None:
    service = make(tmp_path, model=Breaks(at=9))
    service.start()
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="had enough"):
            service.wait(timeout_s=60)
    status = service.get_training_status()
    assert (status["status"], status["error"]) == ("failed", "ArithmeticError: the model has had enough")
    health = service.health_check()
    assert (health["status"], health["trainer_status"]) == ("unhealthy", "failed")
    service.stop()
    assert own_threads() == []


def test_a_bad_configuration_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_epochs"):
        make(tmp_path / "run", optimization__max_epochs=0)
    assert not (tmp_path / "run").exists()


def test_calls_out_of_order_say_so(tmp_path: Path) -> None:
    service = make(tmp_path)
    for call in (service.wait, service.pause_training, service.resume_training):
        with pytest.raises(RuntimeError, match=r"start\(\) first"):
            call()
    service.start()
    with pytest.raises(RuntimeError, match="started before"):
        service.start()
    service.wait(timeout_s=60)


def test_wait_gives_up_in_time_and_the_run_goes_on(tmp_path: Path) -> None:
    with endless(tmp_path) as service:
        service.start()
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            service.wait(timeout_s=0.05)
        assert service.health_check()["status"] == "healthy"


def test_the_health_of_everything(tmp_path: Path) -> None:
    """The content of a health check, with each kind of service."""
    with http_service(200) as good, http_service(500) as bad, tcp_service(say(b"+PONG\r\n")) as (host, port):
        service = make(
            tmp_path, urza_url=good, tamiyo_url=bad, oona_redis_url=f"redis://{host}:{port}", session_name="s"
        )
        health = service.health_check()
    assert health.keys() == {
        "service",
        "status",
        "uptime",
        "last_check",
        "session_name",
        "trainer_status",
        "external_services",
        "reasons",
    }
    assert health["external_services"] == {
        "urza": "healthy",
        "tamiyo": "unhealthy (HTTP 500)",
        "oona": "healthy",
    }
    assert (health["service"], health["status"], health["session_name"]) == ("tolaria", "stopped", "s")
    assert health["uptime"] == 0.0
    assert health["reasons"] == {}
    assert abs(health["last_check"] - time.time()) < 20


def test_neighbours_that_hang_or_refuse_cost_one_time_out(tmp_path: Path) -> None:
    with tcp_service(hang) as (host, port):
        service = make(
            tmp_path,
            urza_url=f"http://{host}:{port}",
            tamiyo_url=f"http://127.0.0.1:{free_port()}",
            oona_redis_url=f"redis://{host}:{port}",
            services__probe_timeout_s=0.3,
        )
        began = time.monotonic()
        health = service.health_check()
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        service.health_check()
        assert time.monotonic() - began < 0.1  # kept for services.probe_interval_s
    assert set(health["external_services"].values()) == {"unreachable"}
    late = "no answer within 0.3 s"
    assert health["reasons"] == {"urza": late, "tamiyo": "Connection refused", "oona": late}
    assert own_threads() == []


def test_the_tamiyo_of_the_group_goes_before_the_top_level_one(tmp_path: Path) -> None:
    with http_service(503) as url:
        service = make(tmp_path, morphogenetic__tamiyo_url=url, services__probe_timeout_s=2.0)
        assert service.health_check()["external_services"]["tamiyo"] == "unhealthy (HTTP 503)"


def test_uptime_runs_from_start_to_end(tmp_path: Path) -> None:
    service = make(tmp_path, services__probe_timeout_s=0.2)
    began = time.monotonic()
    service.start()
    service.wait(timeout_s=60)
    first = service.health_check()["uptime"]
    assert 0.0 < first <= time.monotonic() - began
    assert service.health_check()["uptime"] == first


def test_the_configuration_is_given_as_a_copy(tmp_path: Path) -> None:
    service = make(tmp_path)
    given = service.get_config()
    given.optimization.max_epochs = 7
    assert service.get_config().optimization.max_epochs == 3


def test_the_twins_never_hold_up_the_event_loop(tmp_path: Path) -> None:
    async def live() -> tuple[dict[str, Any], float]:
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - began)

        task = asyncio.create_task(watch())
        with tcp_service(hang) as (host, port):
            service = endless(tmp_path, urza_url=f"http://{host}:{port}", services__probe_timeout_s=3.0)
            await asyncio.sleep(0.02)
            longest = 0.0  # a service is made on the loop; what follows must not hold it up
            await service.start_async()
            with pytest.raises(TimeoutError):
                await service.wait_async(timeout_s=0.1)
            await service.pause_training_async()
            await service.resume_training_async()
            health = await service.health_check_async()
            assert health["external_services"]["urza"] == "unreachable"
            assert (await service.get_config_async()).session_name == health["session_name"]
            await service.stop_async(timeout_s=20)
            assert (await service.get_training_status_async())["status"] == "stopped"
        summary = await service.wait_async()
        task.cancel()
        return summary, longest

    summary, longest = asyncio.run(live())
    assert summary["stopped_by"] == "stopped"
    assert longest < 2.0  # a probe of 3 s ran meanwhile; a busy machine may hold the loop up by itself
    assert own_threads() == []


def test_every_public_call_has_its_twin() -> None:
    public = {name for name in vars(TolariaService) if not name.startswith("_")}
    plain = {name for name in public if not name.endswith("_async")}
    assert public - plain == {f"{name}_async" for name in plain}
    assert plain >= {
        "start",
        "stop",
        "health_check",
        "get_training_status",
        "pause_training",
        "resume_training",
        "get_config",
    }


def test_the_package_offers_it_lazily() -> None:
    assert esper.TolariaService is TolariaService
    assert "TolariaService" in esper.__all__
