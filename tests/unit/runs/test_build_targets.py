"""A target is checked by its text first, then by the object that it resolves to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers.usermodule import write_module

from esper.config import aliases
from esper.errors import ConfigError
from esper.runs.resolver import Resolver, find_object

FORBIDDEN = [
    "os.system",
    "builtins.open",
    "builtins.eval",
    "functools.partial",
    "subprocess.run",
    "torch.load",
    "torch.hub.load",
    "torch.save",
    "torch.nn.functional.torch.load",
    "torch.nn.modules.module.torch.hub.load",
    "torch.optim.optimizer.functools.partial",
    "torch.nn.Module.load_state_dict",
    "torch.nn.init.zeros_",
    "torch.nn.utils.clip_grad_norm_",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.functional.conv2d",
    "torch.nn.functional._no_grad_embedding_renorm_",
    "torch.optim.swa_utils.update_bn",
    "torch.utils.data.get_worker_info",
    "torch.utils.data.datapipes.iter.FileOpener",
    "torch.utils.data.graph.pickle.loads",
    "torch.nn.Module.__init__",
    "torch.nn.Module.__class__",
    "torch.nn",
    "esper.train.Path.unlink",
    "esper.train.main",
    "esper.utils.files.discard_folder",
    "esper.utils.files.shutil.rmtree",
    "esper.runs.trainer.TolariaTrainer",
    "esper.kasmina.wrap",
    "esper.models.registry.import_module",
    "esper.__class__",
    "hydra.utils.instantiate",
]

ALLOWED = [
    "torch.nn.Linear",
    "torch.nn.CrossEntropyLoss",
    "torch.nn.functional.cross_entropy",
    "torch.nn.functional.mse_loss",
    "torch.optim.AdamW",
    "torch.optim.adamw.AdamW",
    "torch.optim.lr_scheduler.StepLR",
    "torch.utils.data.TensorDataset",
    "esper.models.convnet.ConvNet",
    "esper.models.resnet.resnet18",
    "esper.tamiyo.HeuristicPolicy",
    "esper.tolaria.optimization.lr_schedule.cosine",
]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Resolver([]).resolve("key", name, {})
    [text] = caught.value.problems
    assert text.startswith(f"key: given '{name}', expected ")


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    assert Resolver([]).resolve("key", name, {}) is find_object("key", name)


def test_every_short_name_is_itself_allowed() -> None:
    for key, table in aliases.SHORT_NAMES.items():
        for short, target in table.items():
            if key != "dataset.name":
                assert Resolver([]).resolve(key, short, table) is find_object(key, target)


def test_an_unknown_short_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: adam"):
        Resolver([]).resolve("key", "adm", aliases.OPTIMIZERS)


def test_an_unknown_attribute_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: AdamW"):
        Resolver([]).resolve("key", "torch.optim.AdamWW", {})


def test_a_forbidden_module_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "hostile_module", "from pathlib import Path; Path('marker').touch()", monkeypatch)
    with pytest.raises(ConfigError):
        Resolver([]).resolve("key", "hostile_module.Model", {})
    assert "hostile_module" not in sys.modules
    assert not (tmp_path / "marker").exists()


SOURCE = """
from os import system
from pathlib import Path
from torch import nn

class Model(nn.Module):
    @classmethod
    def small(cls):
        return cls()

def build():
    return Model()

made = Model()
"""


@pytest.mark.parametrize("allowed", ["own_models", "own_models.Model"])
def test_a_module_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    write_module(tmp_path, "own_models", SOURCE, monkeypatch)
    found = Resolver([allowed]).resolve("key", "own_models.Model", {})
    assert issubclass(found, torch.nn.Module)
    assert isinstance(Resolver([allowed]).resolve("key", "own_models.Model.small", {})(), found)


@pytest.mark.parametrize(
    "name", ["system", "Path", "Path.unlink", "nn.functional.torch.load", "made", "nothing"]
)
def test_what_an_own_module_has_imported_stays_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_module(tmp_path, "own_models", SOURCE, monkeypatch)
    with pytest.raises(ConfigError):
        Resolver(["own_models"]).resolve("key", f"own_models.{name}", {})


def test_the_working_folder_hides_no_other_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "own_models", SOURCE, monkeypatch)
    Resolver(["own_models"]).resolve("key", "own_models.Model", {})
    assert sys.path[-1] == str(tmp_path)


def test_a_module_that_fails_to_import_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_broken", "raise RuntimeError('not today')", monkeypatch)
    with pytest.raises(ConfigError, match="RuntimeError: not today"):
        Resolver(["own_broken"]).resolve("key", "own_broken.Model", {})


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"x": {"_target_": "os.system"}}, "key.x._target_"),
        ({"x": [{"y": {"_target_": "torch.load"}}]}, "key.x[0].y._target_"),
        (
            {"x": {"_target_": "torch.nn.Linear", "_args_": [{"_target_": "eval"}, 2]}},
            "key.x._args_[0]._target_",
        ),
        ({"x": {"_target_": "os.getcwd", "_partial_": True}}, "key.x._target_"),
        (
            {"x": {"_target_": "torch.nn.GELU", "_recursive_": False, "y": {"_target_": "os.a"}}},
            "key.x.y._target_",
        ),
        ({"x": {"_target_": 3}}, "key.x._target_"),
        ({"x": {"_target_": "torch.nn.Linear", "in_features": 1, "out": 2}}, "key.x.out"),
        ({"x": {"_target_": "torch.nn.Linear", "in_features": 1}}, "key.x.out_features"),
    ],
)
def test_nested_targets(data: dict[str, object], place: str) -> None:
    found = Resolver([]).check_nested("key", data)
    assert any(text.startswith(f"{place}: given") for text in found)


def test_nested_targets_that_are_right() -> None:
    data = {"act": {"_target_": "torch.nn.GELU"}, "x": {"_target_": "torch.nn.Linear", "_args_": [1, 2]}}
    assert Resolver([]).check_nested("key", data) == []
