"""What a signal does to the real commands before a run trains, most in interpreters that are importing."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import esper_train
from helpers.forkserver import start

TRAIN = (sys.executable, "-m", "esper.train")
SMALL = ("+model.model_params.widths=[4,8]", "model.target_layers=[block1,block2]")

# Makes its standard input the terminal of its session, and becomes the command that follows.
_WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def caught(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM, as it is once the first lines of Esper have run."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(mask & 1 << (signal.SIGTERM - 1))


def loads_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def signalled(
    command: tuple[str, ...], folder: Path, number: signal.Signals, moment: Callable[[int], bool]
) -> tuple[int, str]:
    """Exit code and all output of a command that gets a signal once its `moment` has come."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        end = time.monotonic() + 100
        while not moment(process.pid):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(number)
        message = process.communicate(timeout=20)[0]
    finally:
        process.kill()
        process.wait()
    return process.returncode, message


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, caught),
        (signal.SIGTERM, caught),
        (signal.SIGINT, loads_torch),
        (signal.SIGTERM, loads_torch),
    ],
)
def test_a_signal_while_the_command_imports_ends_it_without_a_word(
    tmp_path: Path, number: signal.Signals, moment: Callable[[int], bool]
) -> None:
    run = signalled((*TRAIN, "run_dir=run"), tmp_path, number, moment)
    assert run == (128 + number, "")
    assert not (tmp_path / "run").exists()


def test_a_signal_while_a_job_is_built_ends_the_sweep_and_is_in_the_status(tmp_path: Path) -> None:
    job = tmp_path / "sweep" / "0"
    with start(*SMALL, "--multirun", "seed=1,2", "hydra.sweep.dir=sweep", cwd=tmp_path) as sweep:
        sweep.until((job / "status.json").exists)
        sweep.send(signal.SIGTERM)
        ended = sweep.wait()
    assert ended.code == 143
    message = ended.out + ended.err
    assert [line for line in message.splitlines() if "[HYDRA]" not in line] == []
    status = json.loads((job / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("terminated", 143)
    assert not (job / "run.lock").exists()
    assert not (tmp_path / "sweep" / "1").exists()


def test_a_disk_without_room_for_the_first_files_is_one_sentence(tmp_path: Path) -> None:
    done = esper_train("run_dir=run", cwd=tmp_path, file_limit=400)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "esper-train: 1 problem in writing the first files of a run; expected a folder with room",
        "  File too large",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_esper_ctl_without_a_word(tmp_path: Path, number: signal.Signals) -> None:
    command = (sys.executable, "-m", "esper.ctl", "absent", "status")
    code, message = signalled(command, tmp_path, number, caught)
    assert (code, message) == (128 + number, "")


def test_a_run_whose_terminal_is_closed_saves_and_stops(tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and writing to the terminal fails from then on."""
    run = tmp_path / "run"
    terminal, inner = pty.openpty()
    options = ("optimization.max_epochs=5000", "checkpoint.checkpoint_frequency=1000", f"run_dir={run}")
    process = subprocess.Popen(
        [sys.executable, "-c", _WITH_TERMINAL, *TRAIN, *SMALL, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    os.set_blocking(terminal, False)
    end = time.monotonic() + 100
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < 3:
        assert process.poll() is None and time.monotonic() < end
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.01)
    os.close(terminal)
    assert process.wait(timeout=60) == 129
    summary = json.loads((run / "summary.json").read_text())
    epochs = (run / "metrics.jsonl").read_text().count("\n")
    assert (summary["stopped_by"], summary["epochs_run"]) == ("sighup", epochs)
    assert next(path.name for path in (run / "checkpoints").iterdir()).startswith(f"epoch-{epochs:04d}")
    assert json.loads((run / "status.json").read_text())["exit_code"] == 129
