"""Groups from and to plain data; unknown keys, wrong types and missing values, all at once."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.config import (
    CheckpointConfig,
    DatasetConfig,
    LoggingConfig,
    ModelConfig,
    MorphogeneticConfig,
    OptimizationConfig,
    SeedConfig,
    ServicesConfig,
    TolariaConfig,
    TrainerConfig,
)
from esper.config.serialization import (
    ConfigGroup,
    describe_type,
    enclosing_dict,
    option_names,
    option_type,
    options,
)
from esper.errors import ConfigError

GROUPS = [
    CheckpointConfig,
    DatasetConfig,
    LoggingConfig,
    ModelConfig,
    MorphogeneticConfig,
    OptimizationConfig,
    SeedConfig,
    ServicesConfig,
    TolariaConfig,
    TrainerConfig,
]


def problems_of(group: type[ConfigGroup], data: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        group.from_dict(data)  # type: ignore[arg-type]
    return caught.value.problems


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_comes_back_from_its_own_dictionary(group: type[ConfigGroup]) -> None:
    assert group.from_dict(group().to_dict()) == group()


def test_what_is_left_out_keeps_its_default() -> None:
    config = TolariaConfig.from_dict({"seed": 3, "model": {"seeds_per_layer": 1}})
    assert (config.seed, config.model.seeds_per_layer) == (3, 1)
    assert config.model.architecture == ModelConfig().architecture
    assert config.dataset == DatasetConfig()


@pytest.mark.parametrize(
    ("group", "option", "target", "value"),
    [
        (DatasetConfig, "name", "mylab.Spectra", "mylab.Spectra"),
        (ModelConfig, "architecture", "mylab.Net", "mylab.Net"),
        (ModelConfig, "architecture", "esper.models.mlp.MLP", "mlp"),
    ],
)
def test_a_group_with_a_target_is_read_on_its_own(
    group: type[ConfigGroup], option: str, target: str, value: str
) -> None:
    found = group.from_dict({"_target_": target})
    assert (getattr(found, option), found.to_dict()["_target_"]) == (value, None)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"_target_": "os.system"}, "model._target_"),
        ({"_target_": "os.system", "architecture": "custom"}, "model._target_"),
        ({"architecture": "os.system"}, "model.architecture"),
        # what the interpolation in conf/model comes to
        ({"_target_": "os.system", "architecture": "os.system"}, "model.architecture"),
    ],
)
def test_a_problem_is_reported_under_the_key_that_was_given(model: dict[str, str], key: str) -> None:
    config = TolariaConfig.from_dict({"model": model})
    [problem] = config.validate()
    assert problem.startswith(f"{key}: given 'os.system', expected a target in one of ")
    assert config.to_dict()["model"]["architecture"] == "os.system"


def test_to_dict_is_a_copy() -> None:
    config = ModelConfig(model_params={"widths": [1, 2]})
    config.to_dict()["model_params"]["widths"].append(3)
    assert config.model_params == {"widths": [1, 2]}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems_of(
        TolariaConfig,
        {"sed": 1, "seed": "one", "optimization": {"max_epochs": 1.5, "learning_rat": 1}, "model": 3},
    )
    assert sorted(text.partition(":")[0] for text in found) == [
        "model",
        "optimization.learning_rat",
        "optimization.max_epochs",
        "sed",
        "seed",
    ]


@pytest.mark.parametrize(
    ("data", "key", "near"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"learning_rate": 1}, "learning_rate", "optimization.learning_rate=1"),
        ({"modle": {}}, "modle", "model"),
        ({"model": {"seed_per_layer": 1}}, "model.seed_per_layer", "model.seeds_per_layer"),
        ({"morphogenetic": {"seed": {"blend_step": 1}}}, "morphogenetic.seed.blend_step", "blend_steps"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(data: dict[str, object], key: str, near: str) -> None:
    [text] = problems_of(TolariaConfig, data)
    assert text.startswith(f"{key}: given an unknown key")
    assert text.endswith(near)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        (TolariaConfig, "seed", True),
        (TolariaConfig, "seed", 1.0),
        (TolariaConfig, "seed", None),
        (TolariaConfig, "mode", 1),
        (TolariaConfig, "compile_model", "true"),
        (TolariaConfig, "allowed_targets", "torch"),
        (TolariaConfig, "allowed_targets", ["torch", 1]),
        (TolariaConfig, "mixed_precision", 16),
        (OptimizationConfig, "learning_rate", "fast"),
        (OptimizationConfig, "learning_rate", True),
        (OptimizationConfig, "optimizer_params", [1]),
        (OptimizationConfig, "optimizer_params", {1: 2}),
        (OptimizationConfig, "optimizer_params", {"a": object()}),
    ],
)
def test_a_wrong_type_is_told_with_what_is_right(group: type[ConfigGroup], name: str, value: object) -> None:
    [text] = problems_of(group, {name: value})
    assert text.startswith(f"{name}: given ")
    assert describe_type(option_type(group, name)) in text


@pytest.mark.parametrize("data", [{"mode": "???"}, {"model": {"model_params": {"a": [{"b": "???"}]}}}])
def test_a_value_that_is_still_to_be_given_is_missing(data: dict[str, object]) -> None:
    [text] = problems_of(TolariaConfig, data)
    assert "given no value" in text


def test_a_whole_number_stands_for_a_number() -> None:
    rate = OptimizationConfig.from_dict({"learning_rate": 1}).learning_rate
    assert isinstance(rate, float)
    assert rate == 1.0


@pytest.mark.parametrize("data", [None, 3, "text", [1]])
def test_data_that_is_no_dictionary_is_refused(data: object) -> None:
    assert "expected a group of options" in problems_of(TolariaConfig, data)[0]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none() | st.booleans()))
def test_any_dictionary_gives_a_group_or_names_a_key(data: dict[str, object]) -> None:
    """Nothing but a ConfigError leaves from_dict, and each of its sentences names a key of the data."""
    try:
        config = OptimizationConfig.from_dict(data)
    except ConfigError as error:
        assert all(text.partition(": given")[0] in data for text in error.problems)
    else:
        assert config.to_dict() == OptimizationConfig().to_dict() | data


def test_the_names_of_options_are_those_of_the_fields() -> None:
    names = list(option_names(TolariaConfig))
    assert names == list(options(TolariaConfig()))
    assert "morphogenetic.seed.blend_steps" in names
    assert len(names) == len(set(names))
    assert all(option_type(TolariaConfig, name) is not None for name in names)


def test_no_type_without_words_for_it() -> None:
    for group in GROUPS:
        assert all(describe_type(option_type(group, field.name)) for field in dataclasses.fields(group))


@pytest.mark.parametrize(
    ("key", "parent"),
    [
        ("optimization.optimizer_params.betas", "optimization.optimizer_params"),
        ("morphogenetic.policy.a.b", "morphogenetic.policy"),
        ("optimization.optimizer_params", None),
        ("optimization.lr", None),
        ("nothing.at.all", None),
    ],
)
def test_only_free_dictionaries_take_new_keys(key: str, parent: str | None) -> None:
    assert enclosing_dict(TolariaConfig, key) == parent
