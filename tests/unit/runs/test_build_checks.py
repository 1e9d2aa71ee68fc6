"""Everything that would stop a run is found before it starts, all at once, and leaves no trace."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.usermodule import write_module
from safetensors.torch import save_file
from torch import nn

from esper.config import TolariaConfig
from esper.data import inspect_data
from esper.runs import build_model, check_hydra, check_run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def quick() -> TolariaConfig:
    config = TolariaConfig(run_dir="runs/one")
    config.dataset.name = "digits"
    config.model.architecture = "convnet"
    config.model.num_classes = None
    config.model.target_layers = ["block1"]
    return config


def test_a_good_configuration_has_no_problem_and_leaves_no_trace(tmp_path: Path) -> None:
    """Also: building the model to look at it draws nothing from the global generators."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(1), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    assert check_run(quick()) == []
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert list(tmp_path.iterdir()) == []


def test_all_problems_come_together() -> None:
    config = quick()
    config.optimization.learning_rate = -1.0
    config.device = "cuda:99"
    config.model.target_layers = ["layer9"]
    config.model.num_classes = None
    config.morphogenetic.blueprints = ["mlp", "convlight"]
    config.morphogenetic.policy = {"_target_": "heuristic", "max_seed": 1}
    config.checkpoint.resume_from_checkpoint = "nowhere"
    config.run_dir = __file__ + "/run"
    keys = [text.split(":")[0].split(" is ")[0] for text in check_run(config)]
    assert keys == [
        "optimization.learning_rate",
        "run_dir",
        "device",
        "morphogenetic.policy.max_seed",
        "morphogenetic.blueprints",
        "checkpoint.resume_from_checkpoint",
        "model.target_layers",
    ]


def test_what_one_option_breaks_is_told_once() -> None:
    config = quick()
    config.dataset.name = "digit"
    assert len(check_run(config)) == 1
    config = quick()
    config.optimization.optimizer = "os.system"
    assert len(check_run(config)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.model, "num_classes", 3), "model.num_classes: given 3, expected null or 10"),
        (lambda c: setattr(c.model, "pretrained", "no.safetensors"), "model.pretrained: given"),
        (lambda c: setattr(c.dataset, "augmentation_params", {"crop": 1}), "crop"),
        (
            lambda c: setattr(c.optimization, "optimizer_params", {"betas": [2, 2]}),
            "optimization.optimizer_params",
        ),
        (lambda c: setattr(c.optimization, "scheduler_params", {"x": 2}), "optimization.scheduler_params.x"),
        (lambda c: setattr(c.optimization, "loss_params", {"x": 2}), "optimization.loss_params.x"),
        (lambda c: setattr(c.dataset, "batch_form", "json.loads"), "dataset.batch_form: given 'json.loads'"),
    ],
)
def test_each_part_is_tried(change: Any, message: str) -> None:
    config = quick()
    change(config)
    [text] = check_run(config)
    assert message in text


def test_missing_files_say_where_it_looked() -> None:
    """A missing dataset with download=false says where it looked and what to do."""
    config = quick()
    config.dataset.name, config.dataset.download, config.dataset.data_root = "cifar10", False, "here"
    [text] = check_run(config)
    assert "here/cifar10" in text
    assert "download" in text
    config.dataset.download = True
    assert check_run(config) == []


def test_weights_of_another_model_are_found(tmp_path: Path) -> None:
    config = quick()
    save_file(build_model(config, inspect_data(config.dataset)).state_dict(), tmp_path / "w.safetensors")
    config.model.pretrained = "w.safetensors"
    assert check_run(config) == []
    config.model.model_params = {"widths": [4, 8, 16]}
    [text] = check_run(config)
    assert "has shape (8, 1, 3, 3), the model (4, 1, 3, 3)" in text


def test_a_model_that_is_passed_in_takes_the_place_of_the_configured_one() -> None:
    config = quick()
    config.model.architecture = "nothing.Here"
    config.allowed_targets = ["nothing"]
    config.model.target_layers = ["0"]
    assert check_run(config, model=nn.Sequential(nn.Linear(2, 2))) == []
    config.model.target_layers = ["1"]
    assert len(check_run(config, model=nn.Sequential(nn.Linear(2, 2)))) == 1


OWN = """
import torch

class Data(torch.utils.data.Dataset):
    targets = [0, 1, 2] * 10

    def __init__(self, broken=False):
        if broken:
            raise OSError('disk gone')

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return torch.rand(4), index % 3

class Net(torch.nn.Linear):
    def __init__(self, num_classes):
        super().__init__(4, num_classes)
        self.weight.data.numpy()[:] = 1  # not on meta
"""


def test_a_model_and_a_dataset_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both by target; the dataset is opened to learn what the model has to fit."""
    write_module(tmp_path, "own_parts", OWN, monkeypatch)
    config = quick()
    config.allowed_targets = ["own_parts"]
    config.dataset.name, config.dataset.num_workers = "own_parts.Data", 0
    config.model.architecture = "own_parts.Net"
    config.model.target_layers = ["nn.Linear"]
    [text] = check_run(config)
    assert "model.target_layers" in text
    config.model.architecture, config.model.model_params = "torch.nn.Sequential", {}
    config.dataset.dataset_params = {"broken": True}
    [text] = check_run(config)
    assert "disk gone" in text


# -- Hydra's own targets ---------------------------------------------------------------------------

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@pytest.mark.parametrize(
    "hydra",
    [
        {"callbacks": {"x": {"_target_": "os.system"}}},
        {"callbacks": {"x": {"_target_": "torch.nn.Linear"}}},
        {"callbacks": {"x": {"_target_": "hydra.utils.instantiate"}}},
        {"callbacks": {"x": {"_target_": "hydra.utils.nothing"}}},
        {"callbacks": {"x": {"_target_": "hydra.core.utils.Path.unlink"}}},
        {"callbacks": {"x": {"_target_": BASIC}}},
        {
            "callbacks": {
                "x": {
                    "_target_": "hydra.experimental.callbacks.LogJobReturnCallback",
                    "y": {"_target_": "a.b"},
                }
            }
        },
        {"launcher": {"_target_": "subprocess.run"}},
        {"launcher": {"_target_": 3}},
        {"launcher": {"_target_": BASIC, "x": ["${oc.create:{_target_: os.getcwd}}"]}},
        {"sweeper": {"_target_": BASIC}},
        {"job_logging": {"handlers": {"x": {"()": "os.system"}}}},
        {"hydra_logging": {"handlers": {"x": {"class": "builtins.open"}}}},
    ],
)
def test_forbidden_targets_of_hydra(hydra: dict[str, Any]) -> None:
    """Also `hydra.callbacks`, launcher and sweeper; logging may name factories, too."""
    [text] = check_hydra(hydra, [])
    assert text.startswith(f"hydra.{next(iter(hydra))}")


def test_hydras_own_parts_are_allowed() -> None:
    hydra = {
        "callbacks": {"x": {"_target_": "hydra.experimental.callbacks.LogJobReturnCallback"}},
        "launcher": {"_target_": BASIC},
        "job_logging": {"root": {"handlers": ["x"]}, "handlers": {"x": {"class": "logging.StreamHandler"}}},
    }
    assert check_hydra(hydra, []) == []


def test_a_callback_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "own_callback", "from os import system\nclass Tell: pass\n", monkeypatch)
    assert check_hydra({"callbacks": {"x": {"_target_": "own_callback.Tell"}}}, ["own_callback"]) == []
    assert len(check_hydra({"callbacks": {"x": {"_target_": "own_callback.system"}}}, ["own_callback"])) == 1
