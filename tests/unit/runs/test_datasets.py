"""Dataset objects in a trainer: whose samples are trained on, and what is split off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import small_config
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from esper.config import TolariaConfig
from esper.errors import ConfigError
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer
from esper.tolaria.callbacks import Callback

QUICK = {
    "optimization__max_epochs": 1,
    "dataset__batch_size": 8,
    "dataset__num_workers": 0,
    "morphogenetic__tamiyo_enabled": False,
    "model__target_layers": ["nn.Linear"],
    "model__num_classes": None,
}

SAVED = {"checkpoint__save_checkpoints": True, "checkpoint__checkpoint_frequency": 1}


class Points(Dataset[Any]):
    """Two classes on a line; counts which samples were read."""

    def __init__(self, count: int, offset: float = 0.0) -> None:
        self.targets = torch.arange(count) % 2
        self.points = self.targets[:, None] * 2.0 - 1.0 + offset
        self.read: set[int] = set()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read.add(index)
        return self.points[index], self.targets[index]


SAME = Points(8)


def trainer(folder: Path, *, model: nn.Module | None = None, **objects: Any) -> TolariaTrainer:
    context = RunContext(console=Console(quiet=True))
    host = nn.Sequential(nn.Linear(1, 2)) if model is None else model
    return TolariaTrainer(small_config(**QUICK), model=host, run_dir=folder, context=context, **objects)


def test_each_set_is_used_for_what_it_is_given_for(tmp_path: Path) -> None:
    train, val, test = Points(40), Points(10), Points(6)
    made = trainer(tmp_path, train_data=train, val_data=val, test_data=test)
    made.run_training()
    assert made.job.run is not None
    components = made.job.run.components
    assert [components.train.num_samples, components.validation.num_samples, components.test.num_samples] == [
        40,
        10,
        6,
    ]
    assert [len(each.read) for each in (train, val, test)] == [40, 10, 6]
    saved = TolariaConfig.from_yaml(tmp_path / "config.yaml")
    assert saved.dataset.name.endswith("test_datasets.Points")


def test_what_is_not_given_is_split_off_the_training_set(tmp_path: Path) -> None:
    made = trainer(tmp_path, train_data=Points(40))
    made.run_training()
    assert made.job.run is not None
    components = made.job.run.components
    sizes = [components.train.num_samples, components.validation.num_samples, components.test.num_samples]
    share = made.config.dataset
    assert sizes == [40 - sum(sizes[1:]), int(40 * share.validation_split), int(40 * share.test_split)]


def test_a_resumed_run_has_the_numbers_of_a_whole_one(tmp_path: Path) -> None:
    def train(folder: Path, epochs: int, **options: Any) -> list[float]:
        given = QUICK | SAVED | {"optimization__max_epochs": epochs, "optimization__scheduler": "none"}
        torch.manual_seed(0)
        made = TolariaTrainer(
            small_config(**given | options),
            model=nn.Sequential(nn.Linear(1, 2)),
            train_data=Points(40),
            run_dir=folder,
            context=RunContext(console=Console(quiet=True)),
        )
        made.run_training()
        return [row["val_loss"] for row in made.history]

    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "parts", 1)
    assert train(tmp_path / "parts", 2, checkpoint__resume_from_checkpoint="auto") == whole


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        ({"val_data": Points(4)}, "val_data or test_data: given without train_data"),
        ({"train_data": TensorDataset(torch.zeros(0, 1))}, "train_data is empty"),
        ({"train_data": Points(8), "val_data": []}, "val_data is empty"),
        ({"train_data": 7}, "train_data is a int, which is not map-style"),
        (
            {"train_data": Points(8), "val_data": iter(())},
            "val_data is a tuple_iterator, which",
        ),
        (
            {"train_data": (torch.zeros(9, 1), torch.zeros(9))},
            r"of 2 arrays; .*TensorDataset\(x, y\)",
        ),
        ({"train_data": SAME, "val_data": SAME}, "the same object as train_data"),
        ({"train_data": Points(8), "callbacks": [Callback]}, "callbacks holds a class Callback"),
        ({"train_data": Points(8), "callbacks": Callback()}, "callbacks holds a Callback; expected a list"),
        ({"train_data": Points(8), "model": nn.Linear}, "model is a class Linear; expected an object"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, objects: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        trainer(tmp_path / "run", **objects)
    assert not (tmp_path / "run").exists()
