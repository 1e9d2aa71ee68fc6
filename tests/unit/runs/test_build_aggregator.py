"""What `trainer.aggregation` names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchjd.aggregation
from helpers.usermodule import write_module

from esper.config import TolariaConfig
from esper.errors import ConfigError
from esper.runs import build_aggregator, check_run
from esper.tolaria.gradients import Aggregator, MatrixAggregator, Mean, PCGrad, Weighted


def config(name: str, params: dict[str, Any] | None = None, allowed: tuple[str, ...] = ()) -> TolariaConfig:
    made = TolariaConfig()
    made.seed = 7
    made.dataset.name = "digits"
    made.model.architecture = "mlp"
    made.trainer.aggregation = name
    made.trainer.aggregation_params = params or {}
    made.allowed_targets = list(allowed)
    return made


def test_the_plain_sum_needs_nothing() -> None:
    assert build_aggregator(TolariaConfig()) is None


@pytest.mark.parametrize(
    ("name", "kind", "params"),
    [
        ("mean", Mean, {}),
        ("weighted", Weighted, {"weights": {"a": 1.0, "b": 2.0}}),
        ("pcgrad", PCGrad, {"epsilon": 1e-6}),
        ("esper.tolaria.gradients.PCGrad", PCGrad, {}),
    ],
)
def test_a_name_stands_for_an_aggregator(name: str, kind: type, params: dict[str, Any]) -> None:
    assert type(build_aggregator(config(name, params))) is kind
    assert not [text for text in check_run(config(name, params)) if "trainer." in text]


def test_orders_are_drawn_from_the_runs_seed() -> None:
    made = build_aggregator(config("pcgrad", {"epsilon": 0.5}))
    assert isinstance(made, PCGrad)
    assert made.epsilon == 0.5
    assert torch.equal(made.generator.get_state(), torch.Generator().manual_seed(7).get_state())


def test_an_aggregator_of_torchjd_by_its_name() -> None:
    made = build_aggregator(config("torchjd.aggregation.TrimmedMean", {"trim_number": 1}))
    assert isinstance(made, MatrixAggregator)
    assert isinstance(made.function, torchjd.aggregation.TrimmedMean)


def test_an_aggregator_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "class Top:\n    def __call__(self, matrix):\n        return matrix[0]\n"
    write_module(tmp_path, "own_aggregator", source, monkeypatch)
    made = build_aggregator(config("own_aggregator.Top", allowed=("own_aggregator",)))
    assert isinstance(made, Aggregator)


@pytest.mark.parametrize(
    ("name", "params", "problem"),
    [
        ("sum", {"epsilon": 1}, "trainer.aggregation_params.epsilon: given 1, expected no parameter"),
        ("mean", {"weights": {"a": 1}}, "trainer.aggregation_params: given weights="),
        ("pcgrad", {"epsilon": -1}, "trainer.aggregation_params: epsilon is -1"),
        ("pcgrad", {"epsilo": 1e-6}, "trainer.aggregation_params.epsilo: .*nearest: epsilon"),
        ("weighted", {"weights": {"a": 0.0}}, "add up to 0"),
        ("weighted", {"weights": {"a": float("nan")}}, "add up to nan"),
        ("pcgard", {}, "trainer.aggregation: given .pcgard., expected one of .*nearest: pcgrad"),
        ("torchjd.aggregation.Nothing", {}, "trainer.aggregation: given .torchjd.aggregation.Nothing"),
        ("torchjd.autojac.backward", {}, "a target in one of"),
        ("torch.nn.ReLU", {"_target_": "torch.nn.ReLU"}, "trainer.aggregation_params._target_"),
        ("torchjd.aggregation.CAGrad", {"c": 0.5}, "trainer.aggregation_params"),  # needs cvxpy
        ("torch.nn.functional.relu", {}, "trainer.aggregation"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run(name: str, params: dict[str, Any], problem: str) -> None:
    assert any(re.search(problem, text) for text in check_run(config(name, params)))
    with pytest.raises(ConfigError):
        build_aggregator(config(name, params))
