"""Runs that are locked, steered, stopped, killed and resumed, by the real commands."""

from __future__ import annotations

import signal
from pathlib import Path

from helpers.command import esper_ctl, esper_train, events_of, metrics_of, summary_of
from helpers.forkserver import start
from safetensors.torch import load_file

SMALL = ("+model.model_params.widths=[4,8]", "model.target_layers=[block1,block2]")
LONG = (
    *SMALL,
    "optimization.max_epochs=6",
    "checkpoint.checkpoint_frequency=1",
    "trainer.limit_train_batches=20",
)


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def touched(run: Path) -> dict[Path, bytes | int]:
    """When each file was last written; the lock's content, since its holder renews the time of it."""
    return {p: p.read_bytes() if p.name == "run.lock" else p.stat().st_mtime_ns for p in run.rglob("*")}


def test_a_run_locked_steered_killed_and_resumed_ends_as_one_never_killed(tmp_path: Path) -> None:
    """One run through all of it."""
    whole = esper_train(*LONG, "run_dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "run"
    with start(*LONG, "run_dir=run", cwd=tmp_path) as first:
        first.until(lambda: lines(run) >= 1)
        assert "held" in esper_ctl(str(run), "pause").stdout
        first.until(lambda: esper_ctl(str(run / "checkpoints"), "status").stdout.startswith("paused"))
        saved = esper_ctl(str(run), "checkpoint")
        name = saved.stdout.split()[-1]
        assert saved.returncode == 0 and (run / "checkpoints" / name / "manifest.json").is_file(), saved
        # a second run gets an error that names the holder of the folder, and changes nothing in it
        before = touched(run)
        for arguments in (("checkpoint.resume_from_checkpoint=auto",), ("--multirun", "hydra.sweep.dir=.")):
            target = "hydra.sweep.subdir=run" if "--multirun" in arguments else "run_dir=run"
            second = esper_train(*arguments, target, cwd=tmp_path)
            assert second.returncode == 2, second.stderr
            assert f"is in use by process {first.pid} on " in second.stderr
            assert "Traceback" not in second.stderr
        assert touched(run) == before
        assert first.kill().code == -signal.SIGKILL
    dead = esper_ctl(str(run), "status")
    assert dead.returncode == 3 and dead.stdout.startswith("died: epoch ")
    resume = (*LONG, "run_dir=run", "checkpoint.resume_from_checkpoint=auto")
    resumed = esper_train(*resume, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {run}/checkpoints/{name}" in resumed.stdout
    assert metrics_of(run) == metrics_of(tmp_path / "whole")
    mine, theirs = (load_file(p / "models/final_model.safetensors") for p in (run, tmp_path / "whole"))
    assert all((mine[key] == theirs[key]).all() for key in theirs)
    assert any("ended without releasing this folder" in n["message"] for n in events_of(run, "notice"))
    again = esper_train(*resume, cwd=tmp_path)
    assert again.returncode == 0 and "is finished (max_epochs, 6 epochs)" in again.stdout
    over = esper_ctl(str(run), "status")
    assert over.returncode == 0 and over.stdout.startswith("finished by max_epochs: epoch 6")
    left = {p.name for p in run.iterdir()}
    assert left.isdisjoint({"run.lock", "control.json"}), left


def test_sigterm_saves_and_esper_ctl_stops(tmp_path: Path) -> None:
    """The exit codes are 143 and 0."""
    run = tmp_path / "run"
    endless = (*LONG, "optimization.max_epochs=5000", "run_dir=run")
    with start(*endless, cwd=tmp_path) as first:
        first.until(lambda: lines(run) >= 1)
        first.send(signal.SIGTERM)
        assert first.wait().code == 143
    assert summary_of(run)["stopped_by"] == "sigterm"
    with start(*endless, "checkpoint.resume_from_checkpoint=auto", cwd=tmp_path) as second:
        second.until(lambda: esper_ctl(str(run), "status").stdout.startswith("running: epoch"))
        second.until(lambda: (run / "control.json").exists())
        assert esper_ctl(str(run), "stop").returncode == 0
        assert second.wait().code == 0
    assert summary_of(run)["stopped_by"] == "stopped"
    assert esper_ctl(str(run), "stop").returncode == 3
