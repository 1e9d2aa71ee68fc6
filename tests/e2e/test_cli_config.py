"""C1 to C8, R17: the command line, right and wrong.

Most wrong lines go through `main()` in this process; a dozen go through the real command.
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
from helpers.command import esper_train, metrics_of
from helpers.forkserver import start
from helpers.usermodule import write_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.cli.flags import parse_flags
from esper.cli.plan import make_plan
from esper.config import TolariaConfig
from esper.config.plain import option_names
from esper.train import check, main

PLAN = "morphogenetic/policy=scheduled 'morphogenetic.policy.seeds"

# A command line, the key that its one problem begins with, and what the sentence must also say.
MALFORMED = [
    # keys
    ("typo=1", "typo", "nearest: "),
    ("+typo=1", "typo", "nearest: "),
    ("++typo=1", "typo", "nearest: "),
    ("optimization.learning_rat=0.1", "optimization.learning_rat", "nearest: optimization.learning_rate"),
    ("+optimization.learning_rat=0.1", "optimization.learning_rat", "nearest: optimization.learning_rate"),
    ("learning_rate=0.1", "learning_rate", "nearest: optimization.learning_rate"),
    (
        "morphogenetic.seed.blend_step=1",
        "morphogenetic.seed.blend_step",
        "nearest: morphogenetic.seed.blend_steps",
    ),
    ("model={seeds_per_layr:2}", "model.seeds_per_layr", "nearest: model.seeds_per_layer"),
    ("hydra.run.dri=x", "hydra.run.dri", "nearest: hydra.run.dir"),
    ("~optimization.momentum", "optimization.momentum", "cannot be taken away"),
    ("+optimization.momentum=0.8", "optimization.momentum", "without +"),
    # groups
    ("modle=resnet18", "modle", "nearest: model"),
    ("model=resnet19", "model", "nearest: resnet18"),
    ("dataset=cifar11", "dataset", "nearest: cifar10"),
    ("experiment=strct", "experiment", "nearest: strict"),
    ("+experiment=strict", "experiment", "without +"),
    ("debug=overfitt", "debug", "nearest: overfit"),
    ("morphogenetic/policy=heuristc", "morphogenetic/policy", "nearest: heuristic"),
    ("morphogenetic/polcy=heuristic", "morphogenetic/polcy", "nearest: morphogenetic/policy"),
    ("hydra/launcher=jobblib", "hydra/launcher", "nearest: "),
    ("model@foo=convnet", "model@foo", "nearest: model"),
    # grammar and flags
    ("'seed 3'", "seed 3", "expected key=value"),
    ("=3", "=3", "expected key=value"),
    ("optimization.optimizer_params={betas", "optimization.optimizer_params", "a dictionary of plain values"),
    ("seed=1,2", "seed", "--multirun"),
    ("--multirn seed=1,2", "--multirn", "nearest: --multirun"),
    ("--config-name confg", "--config-name", "nearest: config"),
    ("--config-dir /nowhere", "--config-dir", "a folder that exists"),
    ("--experimental-rerun x.pkl", "--experimental-rerun", "never read"),
    ("--cfg job typo=1", "typo", "nearest: "),
    # types
    ("optimization.learning_rate=fast", "optimization.learning_rate", "a number"),
    ("optimization.max_epochs=1.5", "optimization.max_epochs", "a whole number"),
    ("optimization.max_epochs=null", "optimization.max_epochs", "a whole number"),
    ("model.target_layers=layer1", "model.target_layers", "a list of texts"),
    ("dataset.download=perhaps", "dataset.download", "true or false"),
    ("model.model_params=3", "model.model_params", "a dictionary"),
    ("seed=", "seed", "a whole number"),
    ("model.architecture=???", "model.architecture", "given no value"),
    ("optimization.momentum=${foo}", "optimization.momentum", "cannot be resolved"),
    # ranges, names, combinations
    ("optimization.learning_rate=-1", "optimization.learning_rate", "above 0"),
    ("dataset.batch_size=0", "dataset.batch_size", "at least 1"),
    ("morphogenetic.confidence_threshold=1.5", "morphogenetic.confidence_threshold", "at most 1"),
    ("optimization.optimizer=adm", "optimization.optimizer", "nearest: adam"),
    ("optimization.scheduler=cosin", "optimization.scheduler", "nearest: cosine"),
    ("morphogenetic.policy._target_=heuristik", "morphogenetic.policy._target_", "nearest: heuristic"),
    ("checkpoint.model_save_path=model.pt", "checkpoint.model_save_path", ".safetensors"),
    ("services.tamiyo=http", "services.tamiyo", "http is not available in this version"),
    ("profile_training=true", "trainer.profiler_dir", "profile_training"),
    (
        "dataset.validation_split=0.6 dataset.test_split=0.5",
        "dataset.validation_split + dataset.test_split",
        "below 1",
    ),
    # what the machine tells
    ("device=cuda:77", "device", "cuda:77"),
    ("model.num_classes=7", "model.num_classes", "null or 10"),
    ("model.target_layers=[layer9]", "model.target_layers", "block1"),
    ("model.pretrained=missing.safetensors", "model.pretrained", "missing.safetensors"),
    ("dataset=mnist dataset.data_root=here dataset.download=false", "mnist", "here"),
    ("dataset=custom", "dataset.name", "a dotted target"),
    ("model=custom", "model.architecture", "a dotted target"),
    ("morphogenetic/policy=custom", "morphogenetic.policy._target_", "a dotted target"),
    ("checkpoint.resume_from_checkpoint=nowhere", "checkpoint.resume_from_checkpoint", "does not exist"),
    ("checkpoint.resume_from_checkpoint=auto", "checkpoint.resume_from_checkpoint", "run_dir="),
    ("morphogenetic.blueprints=[convlite]", "morphogenetic.blueprints", "nearest: conv_light"),
    ("run_dir=/proc/version/run", "run_dir", "is a file"),
    ("+optimization.optimizer_params.beta=[0.1,0.2]", "optimization.optimizer_params.beta", "nearest: betas"),
    ("+optimization.optimizer_params.betas=[2,3]", "optimization.optimizer_params", "Invalid beta"),
    ("+optimization.scheduler_params.gama=0.1", "optimization.scheduler_params.gama", "nearest: "),
    ("+model.model_params.width=[4]", "model.model_params.width", "nearest: widths"),
    (
        "morphogenetic.policy.max_seed=2",
        "morphogenetic.policy.max_seed",
        "nearest: max_seeds",
    ),
    ("logging.metrics_file=metrics.jsonl", "logging.metrics_file", "another name"),
    ("optimization.loss_function=mse", "optimization.loss_function", "class numbers"),
    (
        f"{PLAN}=[{{layer: blok2, blueprint: conv_heavy, at_epoch: 1}}]'",
        "morphogenetic.policy.seeds.layer",
        "nearest: block2",
    ),
    (
        f"{PLAN}=[{{layer: block2, blueprint: conv_heavi, at_epoch: 1}}]'",
        "morphogenetic.policy.seeds.blueprint",
        "nearest: conv_heavy",
    ),
    ("+morphogenetic.policy.max_seed=2", "morphogenetic.policy.max_seed", "nearest: max_seeds"),
    # targets
    ("optimization.optimizer=os.system", "optimization.optimizer", "allowed_targets"),
    ("optimization.optimizer=esper.train.Path.unlink", "optimization.optimizer", "it is pathlib.Path.unlink"),
    ("morphogenetic.blueprints=[mlp,os.system]", "morphogenetic.blueprints", "allowed_targets"),
    ("optimization.loss_function=builtins.open", "optimization.loss_function", "allowed_targets"),
    ("model.architecture=torch.hub.load", "model.architecture", "allowed_targets"),
    ("model.architecture=functools.partial", "model.architecture", "allowed_targets"),
    ("optimization.optimizer=torch.optim.Adamm", "optimization.optimizer", "nearest: Adam"),
    ("+model.model_params.x._target_=os.system", "model.model_params.x._target_", "allowed_targets"),
    (
        "+optimization.loss_params={weight:[{_target_:builtins.open,file:x}]}",
        "optimization.loss_params.weight[0]._target_",
        "allowed_targets",
    ),
    (
        "+optimization.optimizer_params._target_=torch.optim.SGD",
        "optimization.optimizer_params._target_",
        "plain",
    ),
    ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_", "hydra_plugins"),
    ("hydra.launcher._target_=os.system", "hydra.launcher._target_", "hydra_plugins"),
    ("hydra.sweeper._target_=subprocess.run", "hydra.sweeper._target_", "hydra_plugins"),
    ("+hydra.job_logging.handlers.x.class=os.system", "hydra.job_logging.handlers.x.class", "logging"),
    # sweeps
    (
        "-m morphogenetic.confidence_threshold=0.5,1.7,0.9",
        "job 1 (morphogenetic.confidence_threshold=1.7): morphogenetic.confidence_threshold",
        "at most 1",
    ),
    ("-m model=convnet,resnet19", "model", "nearest: resnet18"),
    ("-m seed=1,x", "seed", "a whole number"),
    ("-m seed=1,2 hydra.sweep.dir=a,b", "hydra.sweep.dir", "cannot be swept"),
    ("-m optimization.optimizer=adam,adm", "job 1 (optimization.optimizer=adm)", "nearest: adam"),
]
REAL = MALFORMED[::8]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_one_block(code: int, out: str, err: str, key: str, said: str) -> None:
    assert code == 2
    assert out == ""
    head, text = err.splitlines()
    assert head.startswith("esper-train: 1 problem in ")
    assert text.startswith(f"  {key}")
    assert said in text
    assert "Traceback" not in err


@pytest.mark.parametrize(("line", "key", "said"), MALFORMED, ids=[row[0][:60] for row in MALFORMED])
def test_a_malformed_line_is_one_block_and_no_folder(
    line: str,
    key: str,
    said: str,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["esper-train", *shlex.split(line)])
    code = main()
    assert_one_block(code, *capsys.readouterr(), key, said)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(("line", "key", "said"), REAL, ids=[row[0][:60] for row in REAL])
def test_the_real_command_says_the_same(line: str, key: str, said: str, tmp_path: Path) -> None:
    done = esper_train(*shlex.split(line), cwd=tmp_path)
    assert_one_block(done.returncode, done.stdout, done.stderr, key, said)
    assert list(tmp_path.iterdir()) == []


def test_everything_that_is_wrong_comes_together(empty: Path) -> None:
    """C3: ranges, files, device, layers and targets, in one go."""
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(option_names(TolariaConfig))), st.text(max_size=12))
def test_no_value_makes_it_fail(empty: Path, key: str, value: str) -> None:
    """R17: generated lines are right or one problem each, and never an exception."""
    found = check(["--cfg", "job", f"{key}={value}"])
    assert all(": " in text for text in found)


# -- what is shipped -------------------------------------------------------------------------------

GROUPS = {
    "model": ["convnet", "mlp", "resnet18", "resnet34", "vit"],
    "dataset": ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "synthetic"],
    "policy": ["heuristic", "learned", "random", "scheduled"],
}


@pytest.mark.parametrize(("model", "dataset"), list(product(GROUPS["model"], GROUPS["dataset"])))
def test_every_model_runs_on_every_dataset(model: str, dataset: str, empty: Path) -> None:
    """R17: composes, validates, fits; nothing is downloaded by a check."""
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
    """C1"""
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
    ("argv", "said"), [(["--help"], "  dataset: cifar10, "), (["--cfg", "job"], "seed: 0")]
)
def test_help_and_cfg_are_quick_and_load_no_torch(argv: list[str], said: str, tmp_path: Path) -> None:
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
    assert said in done.stdout
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
    """C4: a module in the working folder, once allowed_targets names it; what it imports stays forbidden."""
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
    """C6, C8, pain 8: a folder, a status and a line for each job, and an exit code that is not 0."""
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
    """C7: `esper-train --config-dir D --config-name F` runs a configuration that to_yaml has written."""
    [job] = make_plan(parse_flags(QUICK)).jobs
    job.config.to_yaml(tmp_path / "config.yaml")
    done = esper_train("--config-dir", ".", "--config-name", "config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.glob("outputs/*/*")
    assert TolariaConfig.from_yaml(folder / "config.yaml") == job.config
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "outputs"}


def test_a_signal_ends_the_whole_sweep(tmp_path: Path) -> None:
    """C6, T11: the running job saves and stops, the next one is not started; the code tells the signal."""
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
