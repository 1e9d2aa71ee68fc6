from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import esper
from esper.loggers import WandbLogger, read_jsonl
from esper.loggers.wandb import has_credentials

# Two jobs of a sweep in one process, then the first one continued; the program prints what it saw.
_PROGRAM = """
import json, os, sys, time
from pathlib import Path
from esper.leyline import Event
from esper.loggers import ConsoleLogger, JsonlLogger, LoggerHub, RunInfo, WandbLogger, setup_logging
from esper.config import LoggingConfig

def job(name, steps, resumed=False, state={}):
    run_dir = Path(sys.argv[1], name)
    run_dir.mkdir(parents=True, exist_ok=True)
    close_log = setup_logging(LoggingConfig(), run_dir)
    logger = WandbLogger("esper-test", None, {"tags": ["little"], "notes": "from a test"})
    recorder = LoggerHub([JsonlLogger(), ConsoleLogger()], [logger], time.time)
    recorder.start(RunInfo(
        session_name="little", run_dir=run_dir, config={"optimization": {"learning_rate": 0.25}},
        max_epochs=3, steps_per_epoch=5, samples_per_epoch=160, params_host=77, start_step=steps[0] - 5,
        resumed=resumed, group="sweep-1", job=name, state=state))
    early = recorder.state()
    for step in steps:
        epoch = step // 5
        data = {"layer": "f.1", "seed": 0, "blueprint": "mlp", "reason": "why"}
        data |= {"from": "dormant", "to": "germinated"}
        recorder.event(Event(time.time(), "seed_stage", "info", step, epoch, data))
        recorder.epoch({"epoch": epoch, "step": step, "val_loss": 1.0 / epoch, "val_accuracy": 0.5})
    recorder.finish({"test_accuracy": 0.875})
    recorder.close()
    close_log()
    return {"early": early["wandb"]["id"], "late": recorder.state()}

os.environ["WANDB_DATA_DIR"] = sys.argv[2]  # the user's own choice
first = job("a", [5, 10, 5])  # a rollback at the end
second = job("b", [5])
again = job("a", [15], resumed=True, state=first["late"])
left = sorted(key for key in os.environ if key.startswith("WANDB_") and key != "WANDB_SERVICE")
print(json.dumps({"first": first, "second": second, "again": again, "environment": left}))
"""


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the history rows of a `.wandb` file: protobuf messages in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    content, position, message = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole message, or the last part of one
            record = wandb_internal_pb2.Record.FromString(message)
            message = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture(scope="module")
def proxy() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, proxy: socket.socket) -> dict[str, Any]:
    """A real offline run, in a process of its own: wandb starts a service that stays until its end."""
    base = tmp_path_factory.mktemp("wandb")
    for name in ("home", "cwd", "runs", "data", "tmp"):
        (base / name).mkdir()
    environment = {
        "HOME": str(base / "home"),
        "TMPDIR": str(base / "tmp"),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(esper.__file__).parents[1]),
        "HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}",  # where a call home would arrive
    }
    command = [sys.executable, "-c", _PROGRAM, str(base / "runs"), str(base / "data")]
    done = subprocess.run(
        command, cwd=base / "cwd", env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    calls, _, _ = select.select([proxy], [], [], 0)
    return {"base": base, "stderr": done.stderr, "calls": calls, **json.loads(done.stdout)}


def _pieces(sweep: dict[str, Any], job: str) -> list[Path]:
    return sorted((sweep["base"] / "runs" / job / "wandb").glob("offline-run-*/run-*.wandb"))


def test_offline_needs_no_login_and_says_so_in_a_line(sweep: dict[str, Any]) -> None:
    """Works with no network; WANDB_MODE unset and no API key means offline."""
    lines = sweep["stderr"].splitlines()
    assert len(lines) == 3
    assert all("wandb is offline (no API key); to upload: wandb sync " in line for line in lines)
    assert list(read_jsonl(sweep["base"] / "runs" / "b" / "events.jsonl"))[-1]["name"] == "seed_stage"


def test_offline_makes_no_connection(sweep: dict[str, Any]) -> None:
    """No network, and so no telemetry of wandb's own that would wait for one at the end."""
    assert sweep["calls"] == []


def test_scalars_config_group_and_summary_are_in_the_file(sweep: dict[str, Any]) -> None:
    """Every scalar, the config, the final summary; multirun jobs share a group."""
    (path,) = _pieces(sweep, "b")
    (row,) = _rows(path)
    expected = {
        "step": 5,
        "_step": 5,
        "epoch/val_loss": 1.0,
        "epoch/val_accuracy": 0.5,
        "seeds/f.1.0/stage": 1,
    }
    assert expected.items() <= row.items()
    content = path.read_bytes()
    for part in (
        "esper-test",
        "sweep-1",
        "little-b",
        "from a test",
        "optimization",
        "params_host",
        "summary/test_acc",
    ):
        assert part.encode() in content, part


def test_the_seeds_timeline_is_a_table(sweep: dict[str, Any]) -> None:
    """The seed timeline; of a continued run the whole of it."""
    tables = sorted(
        (sweep["base"] / "runs" / "a").rglob("*.table.json"), key=lambda path: path.parents[4].name
    )
    first, whole = (json.loads(path.read_text()) for path in tables)
    assert first["columns"] == ["epoch", "step", "layer", "seed", "blueprint", "from", "to", "reason"]
    assert [row[1] for row in first["data"]] == [5, 10, 5]
    assert [row[1] for row in whole["data"]] == [5, 10, 5, 15]


def test_a_continued_run_keeps_its_id(sweep: dict[str, Any]) -> None:
    """A resumed run does not open a new wandb run, and the id is known before step 1."""
    ids = [sweep[run][when] for run in ("first", "again") for when in ("early",)]
    ids += [sweep[run]["late"]["wandb"]["id"] for run in ("first", "again")]
    assert len(set(ids)) == 1
    assert [path.name for path in _pieces(sweep, "a")] == [f"run-{ids[0]}.wandb"] * 2
    assert sweep["second"]["early"] != ids[0]


def test_a_rollback_loses_no_point(sweep: dict[str, Any]) -> None:
    """wandb drops rows whose step is smaller than the last one's; the axis people see is `step`."""
    first, again = (list(_rows(path)) for path in _pieces(sweep, "a"))
    assert [(row["_step"], row["epoch/step"]) for row in [*first, *again]] == [
        (5, 5),
        (10, 10),
        (11, 5),
        (21, 15),
    ]


def test_nothing_is_written_outside_the_run_folders(sweep: dict[str, Any]) -> None:
    """Nothing is written elsewhere unless configured."""
    base = sweep["base"]
    assert list((base / "home").iterdir()) == []
    assert list((base / "cwd").iterdir()) == []
    assert {path.name for path in (base / "runs" / "b").iterdir()} == {
        "metrics.jsonl",
        "events.jsonl",
        "wandb",
    }
    assert any((base / "data").iterdir())  # what the user configured is left to the user


def test_the_environment_is_as_it_was(sweep: dict[str, Any]) -> None:
    """Jobs of a sweep share a process."""
    assert sweep["environment"] == ["WANDB_DATA_DIR"]


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    return path


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_credentials_in_the_environment(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert not has_credentials()
    monkeypatch.setenv(name, "x")
    assert has_credentials()


@pytest.mark.parametrize(
    ("host", "found"), [("api.wandb.ai", True), ("example.org", False), ("broken entry", False)]
)
def test_credentials_in_netrc(no_credentials: Path, host: str, found: bool) -> None:
    no_credentials.write_text(f"machine {host} login user password {'0' * 40}\n")
    no_credentials.chmod(0o600)
    assert has_credentials() is found


def test_the_id_is_there_from_the_beginning() -> None:
    """Logger ids are saved before step 1."""
    first, second = WandbLogger("p", None, {}), WandbLogger("p", None, {})
    assert first.state()["id"] and first.state()["id"] != second.state()["id"]


def test_close_before_start_is_quiet() -> None:
    WandbLogger("p", None, {}).close()
