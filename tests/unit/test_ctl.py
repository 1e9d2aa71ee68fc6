"""`esper-ctl`, against a run's own answers and against folders of runs that are over."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.runs import small_config

from esper import ctl
from esper.control.server import ControlServer
from esper.leyline import Event, EventName, Level, SeedStage
from esper.loggers import StatusLogger
from esper.runs.control_handler import ControlHandler
from esper.runs.process import start_control_server
from esper.tolaria.run_control import RunControl
from esper.utils.lock import FolderLock


class RunStub:
    """A run without its loop: run control, status and the control server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.run_control, self.status = RunControl(), StatusLogger()
        answers = ControlHandler(small_config(), self.folder, self.run_control, self.status)
        server, problem = start_control_server(answers, self.folder, {"XDG_RUNTIME_DIR": str(folder)})
        assert server is not None and not problem
        self.server: ControlServer = server


@pytest.fixture
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStub]:
    made = RunStub(tmp_path_factory.mktemp("s"))
    yield made
    made.server.close()


def output_of(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = ctl.main(argv)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_requests_are_passed_on(stub: RunStub, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(stub.folder)
    assert output_of(capsys, run, "resume") == (0, "it was not paused\n")
    assert output_of(capsys, run, "pause") == (0, "it is held after the present batch\n")
    assert stub.run_control.paused
    assert output_of(capsys, run, "resume") == (0, "it goes on\n")
    assert not stub.run_control.paused
    assert output_of(capsys, run, "stop") == (0, "it saves and ends after the present batch\n")
    assert stub.run_control.stop_reason == "stopped"
    assert output_of(capsys, run, "stop") == (0, "the run is ending already\n")


def test_a_checkpoint_is_named_once_it_is_saved(stub: RunStub, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, str(stub.folder), "checkpoint", "--timeout", "0.2")[0] == ctl.NO_ANSWER
    stub.run_control.reject("the run is over")
    code, message = output_of(capsys, str(stub.folder), "checkpoint")
    assert code == ctl.NO_ANSWER and "the run is over" in message


def test_status_tells_where_the_run_is(stub: RunStub, capsys: pytest.CaptureFixture[str]) -> None:
    seed = {"layer": "b", "seed": 0, "blueprint": "mlp", "stage": "blending", "alpha": 0.5}
    record = {"train_loss": 0.25, "val_loss": float("nan"), "val_accuracy": 0.5, "seeds": [seed]}
    stub.status.epoch(record)
    stub.status.event(event(EventName.CHECKPOINT_SAVED, name="epoch-0003"))
    stub.status.event(event(EventName.EMERGENCY_ESCALATED, level=2))
    move = {"layer": "c", "seed": 1, "blueprint": "noise", "to": SeedStage.TRAINING}
    stub.status.event(event(EventName.SEED_STAGE, **move))
    inside = stub.folder / "checkpoints"
    inside.mkdir()
    code, message = output_of(capsys, str(inside), "status")
    assert code == 0
    assert message.startswith("starting: epoch 0 of 3, step 0, process ")
    assert "  loss   training 0.2500, validation (50.0 %)\n" in message.replace("  (", " (")
    assert "  seed   b[0] mlp: blending, alpha 0.50\n  seed   c[1] noise: training\n" in message
    assert "  saved  epoch-0003\n  alarm  emergency level 2\n" in message
    found = json.loads(output_of(capsys, str(inside), "status", "--json")[1])
    assert (found["loss"], found["paused"], found["last_checkpoint"]) == (0.25, False, "epoch-0003")
    stub.status.event(event(EventName.SEED_STAGE, **move | {"to": SeedStage.CULLED}))
    assert [s["layer"] for s in stub.status.facts()["seeds"]] == ["b"]


def event(kind: str, **data: object) -> Event:
    return Event(0.0, kind, Level.INFO, 1, 1, data)


@pytest.mark.parametrize(("stopped_by", "state"), [("max_epochs", "finished"), ("sigterm", "stopped")])
def test_a_run_that_is_over_is_told_from_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stopped_by: str, state: str
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"stopped_by": stopped_by, "test_loss": 0.5}))
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 7, "step": 70, "train_loss": 0.1}\n{"epo')
    saved = {"name": "checkpoint_saved", "data": {"name": "epoch-0007"}}
    (tmp_path / "events.jsonl").write_text(json.dumps(saved) + "\nnull\n")
    code, message = output_of(capsys, str(tmp_path), "status")
    assert code == 0
    assert (
        message.startswith(f"{state} by {stopped_by}: epoch 7, step 70\n") and "saved  epoch-0007" in message
    )
    code, message = output_of(capsys, str(tmp_path), "pause")
    assert code == ctl.NOT_RUNNING and state in message


def test_a_dead_run_is_called_dead_and_a_deaf_one_alive(
    stub: RunStub, capsys: pytest.CaptureFixture[str]
) -> None:
    note = (stub.folder / "control.json").read_bytes()
    stub.server.close()
    (stub.folder / "control.json").write_bytes(note)  # as a killed run leaves it
    for command in ("status", "stop"):
        code, message = output_of(capsys, str(stub.folder), command)
        assert code == ctl.NOT_RUNNING
        assert "ended without closing the run" in message and "resume_from_checkpoint=auto" in message
    lock = FolderLock.take(stub.folder)
    code, message = output_of(capsys, str(stub.folder), "status")
    assert code == 0 and message.startswith("running: epoch 0")
    lock.release()


@pytest.mark.parametrize(
    "name", ["control.json", "run.lock", "summary.json", "metrics.jsonl", "events.jsonl"]
)
@pytest.mark.parametrize("kind", ["fifo", "device", "nested", "huge"])
def test_what_is_no_file_of_a_run_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    """It neither waits for another process nor reads without an end."""
    (tmp_path / "summary.json").write_text('{"stopped_by": "sigterm"}')
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "nested":
        path.write_text("[" * 200_000)
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    if name == "summary.json":
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 7}\n')
    code, message = output_of(capsys, str(tmp_path), "status")
    died = name == "summary.json"
    assert message.splitlines()[0] == (
        "died: epoch 7, step 0" if died else "stopped by sigterm: epoch 0, step 0"
    )
    assert code == (ctl.NOT_RUNNING if died else ctl.DONE)


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, str(tmp_path), "status") == (
        2,
        f"esper-ctl: {tmp_path} is no run folder and lies in none\n",
    )
    with pytest.raises(SystemExit) as caught:
        ctl.main(["fly"])
    assert caught.value.code == 2


def test_it_starts_without_torch() -> None:
    code = "import sys, esper.ctl; print({'torch', 'rich', 'omegaconf', 'asyncio'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_no_socket_is_a_sentence_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answers = ControlHandler(small_config(), tmp_path, RunControl(), StatusLogger())
    server, problem = start_control_server(answers, tmp_path / "file", {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert server is None and problem.startswith("esper-ctl cannot reach this run: ")


@pytest.mark.parametrize("argv", [["status"], ["status", "--json"], ["--help"], ["pause"]])
def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path, argv: list[str]) -> None:
    """`esper-ctl RUN status | head -1`"""
    (tmp_path / "summary.json").write_text('{"stopped_by": "max_epochs", "epochs_run": 3}')
    reading, writing = os.pipe()
    os.close(reading)
    run = [] if argv == ["--help"] else [str(tmp_path)]
    command = [sys.executable, "-m", "esper.ctl", *run, *argv]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == (3 if argv == ["pause"] else 0)
    assert done.stderr == ("esper-ctl: the run is finished\n" if argv == ["pause"] else "")


@pytest.mark.parametrize("last_event", [(0, 0), (62, 1), (95, 2)])
def test_an_ended_run_is_at_the_step_that_it_stopped_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last_event: tuple[int, int]
) -> None:
    """An epoch that was broken off has no line among the metrics."""
    step, epoch = last_event
    (tmp_path / "summary.json").write_text('{"stopped_by": "sigint"}')
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "step": 40, "train_loss": 0.5}\n')
    event = {"time": 0, "name": "run_finished", "level": "info", "step": step, "epoch": epoch, "data": {}}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    code, text = output_of(capsys, str(tmp_path), "status", "--json")
    state = json.loads(text)
    assert (code, state["step"], state["epoch"]) == (0, max(step, 40), max(epoch, 1))
    assert state["train_loss"] == 0.5


def test_how_to_go_on_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a=b, it's"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("")
    code, text = output_of(capsys, str(folder), "status")
    command = text.partition("to go on: ")[2]
    assert code == 3
    assert shlex.split(command)[1] == f'run_dir="{folder}"'


def test_how_to_go_on_has_the_overrides_of_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    overrides = [
        "allowed_targets=[mylab]",
        "model._target_=mylab.Net",
        "+model.hidden=3",
        "run_dir=elsewhere",
    ]
    (tmp_path / "status.json").write_text(json.dumps({"status": "running", "overrides": overrides}))
    _, text = output_of(capsys, str(tmp_path), "status")
    words = shlex.split(text.partition("to go on: ")[2])
    assert words[:4] == ["esper-train", *overrides[:3]]
    assert words[4].startswith("run_dir=")
    assert words[5] == "checkpoint.resume_from_checkpoint=auto"


def test_a_host_that_was_renamed_is_still_asked_and_another_is_named(
    stub: RunStub, capsys: pytest.CaptureFixture[str]
) -> None:
    """What answers is the run, whatever its host was called when it started."""
    path = stub.folder / "control.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "pod-1"}))
    assert output_of(capsys, str(stub.folder), "status")[1].startswith("starting: epoch 0 of 3")
    note = path.read_bytes()
    stub.server.close()
    path.write_bytes(note)
    code, message = output_of(capsys, str(stub.folder), "status")
    assert code == ctl.NOT_RUNNING
    assert f"process {json.loads(note)['pid']} was started on host pod-1, this is " in message
    assert "ask it there, if it still runs; to go on: esper-train" in message
