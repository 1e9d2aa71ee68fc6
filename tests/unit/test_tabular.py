"""A dataset of the user's own whose samples are no images, with a shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import esper_train, metrics_of, summary_of
from helpers.usermodule import write_module
from rich.console import Console

from esper.config import TolariaConfig
from esper.errors import ConfigError
from esper.runs.context import RunContext
from esper.runs.load import load
from esper.runs.trainer import TolariaTrainer

SOURCE = """
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine

class Table:
    def __init__(self, kind="breast_cancer", shape=None):
        table = {"breast_cancer": load_breast_cancer, "wine": load_wine}[kind]()
        x = (table.data - table.data.mean(0)) / table.data.std(0)
        self.x = x if shape is None else x.reshape(-1, *shape)
        self.targets = table.target
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        return self.x[index], self.targets[index]
"""


def config(run_dir: Path, architecture: str = "mlp", **params: Any) -> TolariaConfig:
    made = TolariaConfig(run_dir=str(run_dir), allowed_targets=["esper_table"], device="cpu")
    made.model.architecture = architecture
    made.model.num_classes, made.model.target_layers = None, ["body.fc1"]
    made.dataset.name, made.dataset.dataset_params = "esper_table.Table", params
    made.dataset.num_workers, made.dataset.test_split, made.dataset.batch_size = 0, 0.2, 32
    made.optimization.max_epochs, made.optimization.learning_rate = 5, 0.01
    made.morphogenetic.tamiyo_enabled = False
    made.logging.progress, made.logging.log_level = False, "ERROR"
    return made


@pytest.mark.parametrize(
    ("params", "features"),
    [({}, 30), ({"shape": [5, 6]}, 30), ({"kind": "wine"}, 13)],
    ids=["(30,)", "(5, 6)", "(13,)"],
)
def test_an_mlp_learns_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], features: int
) -> None:
    """The data are float64, as scikit-learn gives them."""
    write_module(tmp_path, "esper_table", SOURCE, monkeypatch)
    trainer = TolariaTrainer(
        config(tmp_path / "run", **params), context=RunContext(console=Console(quiet=True))
    )
    summary = trainer.run_training()
    assert trainer.model.host.body.fc1.in_features == features
    assert summary["test_accuracy"] >= 0.93
    assert summary["val_accuracy"] >= 0.93
    loaded = load(tmp_path / "run", allowed_targets=["esper_table"])
    inputs = torch.randn(7, *params.get("shape", [features]))
    assert loaded(inputs).equal(trainer.model.eval()(inputs))


def test_the_command_trains_an_mlp_on_a_table(tmp_path: Path) -> None:
    (tmp_path / "esper_table.py").write_text(SOURCE)
    done = esper_train(
        "model=mlp",
        "dataset=custom",
        "dataset.name=esper_table.Table",
        "dataset.num_workers=0",
        "dataset.test_split=0.2",
        "dataset.batch_size=32",
        "allowed_targets=[esper_table]",
        "optimization.max_epochs=5",
        "optimization.learning_rate=0.01",
        "morphogenetic.tamiyo_enabled=false",
        "device=cpu",
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path / "run")["test_accuracy"] >= 0.93
    assert metrics_of(tmp_path / "run")[-1]["val_accuracy"] >= 0.93


def test_a_model_of_images_is_refused_for_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "esper_table", SOURCE, monkeypatch)
    with pytest.raises(
        ConfigError, match=r"mlp, or a dotted .*resnet18 needs images .* shape \(30,\)"
    ) as message:
        TolariaTrainer(config(tmp_path / "run", "resnet18"))
    assert len(message.value.problems) == 1
    assert not (tmp_path / "run").exists()
