"""The metric that a configuration names."""

from __future__ import annotations

import pytest

from esper.config import TolariaConfig
from esper.errors import ConfigError
from esper.runs import build_metric


class Counting:
    """A metric of the user's own."""

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def update(self, output: object, targets: object) -> None:
        self.start += 1

    def compute(self) -> float:
        return float(self.start)

    def reset(self) -> None:
        self.start = 0


def config(metric: str, **params: object) -> TolariaConfig:
    made = TolariaConfig(allowed_targets=[__name__])
    made.optimization.metric, made.optimization.metric_params = metric, params
    return made


@pytest.mark.parametrize("name", ["auto", "accuracy", "binary_accuracy", "none"])
def test_kinds_of_accuracy_are_no_objects(name: str) -> None:
    assert build_metric(config(name)) is None
    assert config(name).validate() == []


def test_a_class_is_made_with_its_parameters() -> None:
    made = build_metric(config(f"{__name__}.Counting", start=3))
    assert isinstance(made, Counting)
    assert made.compute() == 3.0


def test_what_has_no_update_compute_and_reset_is_refused() -> None:
    with pytest.raises(ConfigError, match="a metric: Linear has no update, compute, reset"):
        build_metric(config("torch.nn.Linear", in_features=1, out_features=1))


def test_a_misspelt_name_and_parameters_of_a_kind_are_refused() -> None:
    (problem,) = config("accurcy").validate()
    assert problem.endswith("or a dotted target; nearest: accuracy")
    with pytest.raises(ConfigError, match="no parameter: auto has none"):
        build_metric(config("auto", threshold=0.5))
