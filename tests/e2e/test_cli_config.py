"""The command line, right and wrong.

All wrong lines are a row of the fault suite, `R17-lines`; a dozen go through the real command here.
"""

from __future__ import annotations

import json
import resource
import shlex
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from faults.harness.lines import MALFORMED, Answer, wrong_with
from helpers.command import esper_train, metrics_of
from helpers.forkserver import start
from helpers.usermodule import write_module

from esper.cli.flags import parse_flags
from esper.cli.plan import make_plan
from esper.config import TolariaConfig
from esper.train import check, main

REAL = MALFORMED[::8]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("line", "key", "message"), REAL, ids=[row[0][:60] for row in REAL])
def test_the_real_command_says_the_same(line: str, key: str, message: str, tmp_path: Path) -> None:
    done = esper_train(*shlex.split(line), cwd=tmp_path)
    assert wrong_with(Answer(done.returncode, done.stdout, done.stderr), key, message) == []
    assert list(tmp_path.iterdir()) == []


def test_everything_that_is_wrong_comes_together(empty: Path) -> None:
    """Ranges, files, device, layers and targets, in one go."""
    found = check(
        [
            "optimization.learning_rate=-1",
            "device=cuda:77",
            "model.target_layers=[layer9]",
            "checkpoint.resume_from_checkpoint=nowhere",
            "+hydra.callbacks.x._target_=os.system",
        ]
    )
    assert len(found) == 5
    found = check(["sed=1", "seed=x", "model=resnet19"])
    assert len(found) == 3


# -- what is shipped -------------------------------------------------------------------------------

GROUPS = {
    "model": ["convnet", "mlp", "resnet18", "resnet34", "vit"],
    "dataset": ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "synthetic"],
    "policy": ["heuristic", "learned", "random", "scheduled"],
}


@pytest.mark.parametrize(("model", "dataset"), list(product(GROUPS["model"], GROUPS["dataset"])))
def test_every_model_runs_on_every_dataset(model: str, dataset: str, empty: Path) -> None:
    """Composes, validates, fits; nothing is downloaded by a check."""
    assert check([f"model={model}", f"dataset={dataset}"]) == []
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "extra",
    [
        "experiment=strict",
        "debug=overfit",
        "debug=few_batches",
        "debug=profile",
        "logging=tensorboard",
        "logging=wandb",
        *(f"morphogenetic/policy={policy}" for policy in GROUPS["policy"]),
        *(f"recipe={dataset}" for dataset in GROUPS["dataset"] if dataset != "synthetic"),
        "model=custom model.architecture=esper.models.mlp.MLP",
    ],
)
def test_every_other_group_composes_and_validates(extra: str, empty: Path) -> None:
    assert check(shlex.split(extra)) == []


def test_a_folder_of_images_is_a_dataset(empty: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (empty / "data" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8)).save(empty / "data" / name / f"{number}.png")
    assert check(["dataset=image_folder", "model=convnet"]) == []


def test_the_example_of_the_specification(empty: Path) -> None:
    line = ["model=resnet18", "dataset=cifar10", "morphogenetic.tamiyo_enabled=true"]
    [job] = make_plan(parse_flags(line)).jobs
    assert job.config.model.target_layers == ["layer1", "layer2", "layer3", "layer4"]
    assert check(line) == []


# -- showing ---------------------------------------------------------------------------------------


def _cpu_s() -> float:
    """Processor time of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("argv", "message"), [(["--help"], "  dataset: cifar10, "), (["--cfg", "job"], "seed: 0")]
)
def test_help_and_cfg_are_quick_and_load_no_torch(argv: list[str], message: str, tmp_path: Path) -> None:
    """In processor time a few times what the import of Hydra takes on this machine."""
    code = (
        f"import sys; sys.argv = ['esper-train', *{argv!r}]; from esper.train import main; code = main();"
        "print('loaded:', 'torch' in sys.modules, 'numpy' in sys.modules); sys.exit(code)"
    )
    bare = _cpu_s()
    subprocess.run([sys.executable, "-c", "import hydra"], check=True)
    before = _cpu_s()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    spent = _cpu_s() - before
    assert message in done.stdout
    assert "loaded: False False" in done.stdout
    assert spent < 6 * (before - bare)
    assert list(tmp_path.iterdir()) == []


def test_validate_only_makes_no_folder(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["esper-train", "-m", "seed=1,2", "validate_only=true"])
    assert main() == 0
    assert capsys.readouterr().out == "valid: 2 jobs, nothing was started\n"
    assert list(empty.iterdir()) == []


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["esper-train", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("esper ")


# -- running ---------------------------------------------------------------------------------------

QUICK = ["debug=few_batches", "optimization.max_epochs=1", "checkpoint.save_checkpoints=false"]
OWN = """
from pathlib import Path
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))

def explode(batch):
    raise ZeroDivisionError('oops')
"""


def test_a_target_of_the_users_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working folder, once allowed_targets names it; what it imports stays forbidden."""
    write_module(tmp_path, "own_net", OWN, monkeypatch)
    own = ["model=custom", "model.target_layers=[nn.Linear]", "run_dir=run"]
    refused = esper_train(*QUICK, *own, "model.architecture=own_net.Net", cwd=tmp_path)
    assert refused.returncode == 2
    assert check([*own, "allowed_targets=[own_net]", "model.architecture=own_net.Path"]) != []
    done = esper_train(
        *QUICK, *own, "model.architecture=own_net.Net", "allowed_targets=[own_net]", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "done"


def test_a_sweep_goes_on_after_a_failed_job_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a status and a line for each job, and an exit code that is not 0."""
    write_module(tmp_path, "own_form", OWN, monkeypatch)
    done = esper_train(
        *QUICK,
        "--multirun",
        "dataset.batch_form=own_form.explode,null",
        "allowed_targets=[own_form]",
        "run_dir=sweep",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError: oops" in (tmp_path / "sweep/0/crash.txt").read_text()
    statuses = [json.loads((tmp_path / f"sweep/{n}/status.json").read_text()) for n in (0, 1)]
    assert [(status["status"], status["exit_code"]) for status in statuses] == [("crashed", 1), ("done", 0)]
    table = [line.split()[:2] for line in done.stdout.splitlines()[-3:]]
    assert table == [["job", "status"], ["0", "crashed"], ["1", "done"]]
    assert len(metrics_of(tmp_path / "sweep/1")) == 1
    assert not list(tmp_path.rglob("*.log"))


def test_one_saved_file_runs_into_a_folder_of_its_own(tmp_path: Path) -> None:
    """`esper-train --config-dir D --config-name F` runs a configuration that to_yaml has written."""
    [job] = make_plan(parse_flags(QUICK)).jobs
    job.config.to_yaml(tmp_path / "config.yaml")
    done = esper_train("--config-dir", ".", "--config-name", "config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.glob("outputs/*/*")
    assert TolariaConfig.from_yaml(folder / "config.yaml") == job.config
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "outputs"}


def test_a_signal_ends_the_whole_sweep(tmp_path: Path) -> None:
    """The running job saves and stops, the next one is not started; the exit code names the signal."""
    line = [
        "-m",
        "seed=1,2",
        "run_dir=sweep",
        "optimization.max_epochs=5000",
        "morphogenetic.tamiyo_enabled=false",
    ]
    metrics = tmp_path / "sweep/0/metrics.jsonl"
    with start(*line, "optimization.early_stopping_patience=0", cwd=tmp_path) as sweep:
        sweep.until(lambda: metrics.is_file() and metrics.read_text())
        sweep.send(signal.SIGINT)
        ended = sweep.wait()
    assert ended.code == 130, ended.err
    assert [row.split()[1] for row in ended.out.splitlines()[-2:]] == ["interrupted", "not"]
    assert not (tmp_path / "sweep/1").exists()
