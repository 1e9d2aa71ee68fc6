"""Whole runs of the real command, each in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.command import esper_train, events_of, fresh_esper_train, metrics_of, summary_of
from helpers.datasets import write_cifar10
from safetensors.torch import load_file

import esper
from esper.leyline import EPOCH_METRICS

EPOCHS = 5
SHORT = [
    *(f"optimization.max_epochs={EPOCHS}", "trainer.limit_train_batches=25"),
    "morphogenetic.seed.blend_steps=12",
]
SMALL = ["+model.model_params.widths=[4,8]", "model.target_layers=[block1,block2]"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of the default command."""
    cwd = tmp_path_factory.mktemp("quick")
    done = esper_train(*SHORT, "hydra.run.dir=run", "checkpoint.checkpoint_frequency=3", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in cwd.iterdir()} == {"run"}, "nothing is written elsewhere"
    return cwd / "run"


def test_the_default_command_grows_and_records(quick: Path) -> None:
    """Seeds fossilise, and the folder says what happened."""
    summary = summary_of(quick)
    assert summary["stopped_by"] == "max_epochs" and summary["epochs_run"] == EPOCHS
    assert "fossilized" in {seed["stage"] for seed in summary["seeds"]}
    assert summary["params_final"] == summary["params_host"] + sum(
        seed["params"] for seed in summary["seeds"] if seed["stage"] != "culled"
    )
    assert all(seed["impact"]["loss_gain"] > 0 for seed in summary["seeds"] if seed["stage"] == "fossilized")
    lines = metrics_of(quick)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert set(EPOCH_METRICS) - set(lines[0]) == {"epoch_time"}, "only what reads the clock was left out"
    for name in ("events.jsonl", "run.png", "training_metrics.json", "config.yaml"):
        assert (quick / name).stat().st_size > 0
    assert events_of(quick, "adaptation_applied")


def test_the_same_command_gives_the_same_run(quick: Path, tmp_path: Path) -> None:
    """In another interpreter, whose strings have other hashes."""
    done = fresh_esper_train(*SHORT, "hydra.run.dir=run", "checkpoint.checkpoint_frequency=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run") == metrics_of(quick)
    mine, theirs = (load_file(p / "models/final_model.safetensors") for p in (tmp_path / "run", quick))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_run_resumed_from_a_checkpoint_ends_as_if_never_stopped(quick: Path, tmp_path: Path) -> None:
    """Resumes from epoch 3, while a seed grows, into another folder."""
    saved = quick / "checkpoints" / "epoch-0003"
    done = esper_train(
        *SHORT, f"checkpoint.resume_from_checkpoint={saved}", "hydra.run.dir=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run") == metrics_of(quick)[3:]
    mine, theirs = (load_file(p / "models/final_model.safetensors") for p in (tmp_path / "run", quick))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert summary_of(tmp_path / "run")["resumed_from"] == str(saved)


def test_a_checkpoint_is_evaluated_and_loaded(quick: Path, tmp_path: Path) -> None:
    """`mode=test` reads the same accuracy that the run read; a notebook gets the same model."""
    done = esper_train(
        "mode=test", f"checkpoint.resume_from_checkpoint={quick}", "hydra.run.dir=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    was, now = summary_of(quick), summary_of(tmp_path / "run")
    assert now["test_accuracy"] == was["test_accuracy"] and now["test_loss"] == was["test_loss"]
    model = esper.load(quick)
    assert sum(p.numel() for p in model.parameters()) == was["params_final"]
    assert model.get_model_stats()["active_seeds"] > 0


def test_a_resnet_on_files_in_cifar_format(tmp_path: Path) -> None:
    """A command line with many overrides; resnet18 forwards are why it takes its time."""
    write_cifar10(tmp_path / "data", per_file=16)
    done = esper_train(
        *("model=resnet18", "dataset=cifar10", "morphogenetic.tamiyo_enabled=true"),
        *("optimization.max_epochs=2", "dataset.batch_size=16", "+model.model_params.width=8"),
        *("hydra.run.dir=run", "morphogenetic.seed.blend_steps=2", "dataset.download=false"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path / "run")
    assert summary["epochs_run"] == 2
    assert {line["total_seeds"] for line in metrics_of(tmp_path / "run")} == {16}
    assert summary["adaptations"]["proposed"] > 0


def test_a_sweep_equals_its_jobs_run_alone(tmp_path: Path) -> None:
    """Jobs share a process, and nothing leaks from one into the next."""
    swept = "morphogenetic.confidence_threshold=0.5,0.9"
    short = [*SMALL, "optimization.max_epochs=2", "trainer.limit_train_batches=10"]
    short += ["logging.use_wandb=true", "logging.use_tensorboard=true"]
    done = esper_train("--multirun", swept, *short, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = esper_train("morphogenetic.confidence_threshold=0.9", *short, "hydra.run.dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert metrics_of(tmp_path / "sweep" / "1") == metrics_of(tmp_path / "alone")
    assert metrics_of(tmp_path / "sweep" / "0") != metrics_of(tmp_path / "sweep" / "1")
    for folder in (tmp_path / "sweep" / "0", tmp_path / "alone"):
        assert list(folder.glob("tensorboard/events.out.tfevents.*"))
        assert list(folder.glob("wandb/offline-run-*/*.wandb")) or list(folder.glob("wandb/**/*.wandb"))
    assert {p.name for p in tmp_path.iterdir()} == {"sweep", "alone"}


def test_a_harmful_blueprint_is_culled(tmp_path: Path) -> None:
    """Noise germinates, for it is as large as the good blueprints, and is culled on its measured impact."""
    done = esper_train(
        *("morphogenetic.blueprints=[noise]", "optimization.max_epochs=4", "hydra.run.dir=run"),
        *("morphogenetic.seed.blend_steps=10", *SMALL),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    noise = [seed for seed in summary_of(tmp_path / "run")["seeds"] if seed["blueprint"] == "noise"]
    judged = [seed for seed in noise if seed["impact"] is not None]
    assert judged and all(seed["stage"] == "culled" for seed in judged)


def test_a_dry_run_describes_and_leaves(tmp_path: Path) -> None:
    done = esper_train("dry_run=true", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6,274 parameters" in done.stdout and "block3" in done.stdout
    assert not (tmp_path / "run" / "summary.json").exists()


def test_other_data_than_the_saved_runs_is_refused_or_taken_from_it(quick: Path, tmp_path: Path) -> None:
    """Another seed would test on images that were trained on; a folder belongs to one run."""
    resume = f"checkpoint.resume_from_checkpoint={quick}"
    other = esper_train(resume, "seed=1", "hydra.run.dir=run", cwd=tmp_path)
    assert other.returncode == 2 and "seed" in other.stderr, other.stderr
    tested = esper_train("mode=test", resume, "seed=1", "model=mlp", "hydra.run.dir=test", cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert summary_of(tmp_path / "test")["test_loss"] == summary_of(quick)["test_loss"]
    again = esper_train("optimization.max_epochs=1", f"hydra.run.dir={quick}", cwd=tmp_path)
    assert again.returncode == 2 and "holds a run already" in again.stderr, again.stderr


def test_a_run_that_could_not_save_exits_with_4_and_auto_makes_up_for_it(tmp_path: Path) -> None:
    """The system lets no file grow beyond 40 KiB: the records fit, the model and the checkpoints do not."""
    given = ["dataset=digits", "optimization.max_epochs=1", "trainer.limit_train_batches=5", "run_dir=run"]
    failed = esper_train(*given, cwd=tmp_path, file_limit=40 * 1024)
    assert failed.returncode == 4, failed.stderr
    assert "the final model could not be written" in failed.stderr and "Traceback" not in failed.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 4
    assert len(summary_of(tmp_path / "run")["unsaved"]) == 2, "the final model and the last checkpoint"
    again = esper_train(*given, "checkpoint.resume_from_checkpoint=auto", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    run = tmp_path / "run"
    assert (run / "models" / "final_model.safetensors").is_file() and "unsaved" not in summary_of(run)
    assert (run / "summary.json.before-1").is_file() and (run / "checkpoints" / "epoch-0001").is_dir()
