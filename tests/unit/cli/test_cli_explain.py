"""Errors of Hydra and OmegaConf are reported with key, given value, expected value and nearest name."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.cli.explain import explain, unknown_choice, unknown_option
from esper.config import TolariaConfig


def error_of(key: str, value: object) -> OmegaConfBaseException:
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.update(OmegaConf.structured(TolariaConfig), key, value)
    return caught.value


def test_a_wrong_type() -> None:
    text = explain(error_of("seed", "x"))
    assert text == "seed: given 'x', expected a whole number"


def test_an_unknown_key() -> None:
    text = explain(error_of("optimization.learning_rat", 1))
    assert text.startswith("optimization.learning_rat: given an unknown key")
    assert text.endswith("nearest: optimization.learning_rate")


def test_an_error_inside_an_error() -> None:
    outer = ConfigCompositionException("Error merging override seed=x")
    outer.__cause__ = error_of("seed", "x")
    assert explain(outer) == "seed: given 'x', expected a whole number"


def test_the_value_of_an_override_is_found_in_hydras_advice() -> None:
    outer = ConfigCompositionException(
        "Could not override 'hydra.run.dri'.\nTo append use +hydra.run.dri=a=b"
    )
    outer.__cause__ = error_of("sed", 1)
    assert "value 'a=b'" in explain(outer)


def test_a_missing_option_of_a_group() -> None:
    text = explain(MissingConfigException("...", "model/resnet19", ["convnet", "resnet18"]))
    assert text == "model: given 'resnet19', expected one of convnet, resnet18; nearest: resnet18"


@pytest.mark.parametrize("line", ["seed 3", "a=[1", "a={b", "a=b=c}"])
def test_an_override_that_cannot_be_read(line: str) -> None:
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides([line])
    assert explain(caught.value).startswith(f"{line}: given '{line}', expected key=value (")


def test_new_keys_of_free_dictionaries_need_a_plus() -> None:
    assert "+optimization.optimizer_params.x" in unknown_option("optimization.optimizer_params.x", 1)


def test_hydras_own_keys_have_a_nearest_one_too() -> None:
    assert unknown_option("hydra.sweep.subdri", 1).endswith("nearest: hydra.sweep.subdir")


def test_a_group_without_options() -> None:
    assert unknown_choice("x", "y", []) == "x: given 'y', expected a group that has options"


def test_any_other_error_is_one_line() -> None:
    assert explain(ValueError("one\n  two\n\n")) == "configuration: one two"
