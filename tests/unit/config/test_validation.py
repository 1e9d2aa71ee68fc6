"""Ranges and choices; every option has a rule or a reason to have none."""

from __future__ import annotations

from typing import Any

import pytest

from esper.config import TolariaConfig
from esper.config.option import option_infos
from esper.config.serialization import option_names, option_type

INFOS = option_infos(TolariaConfig)


def with_option(key: str, value: Any) -> TolariaConfig:
    config = TolariaConfig()
    *groups, name = key.split(".")
    owner: Any = config
    for group in groups:
        owner = getattr(owner, group)
    setattr(owner, name, value)
    return config


def test_the_defaults_are_valid() -> None:
    assert TolariaConfig().validate() == []


def test_every_number_has_a_range() -> None:
    numbers = [
        n
        for n in option_names(TolariaConfig)
        if option_type(TolariaConfig, n) in (int, float, int | None, float | None)
    ]
    assert [name for name in numbers if INFOS[name].rule is None] == []


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("mode", "trian", "train"),
        ("seed", -1, ""),
        ("seed", 2**32, ""),
        ("session_name", " ", ""),
        ("device", "gpu", "cuda"),
        ("device", "cuda:x", "cuda"),
        ("mixed_precision", "fp8", "fp16"),
        ("run_dir", "", ""),
        ("allowed_targets", ["my module"], ""),
        ("urza_url", "localhost:8000", ""),
        ("tamiyo_url", "http://", ""),
        ("tamiyo_url", "http://host:99999", ""),
        ("oona_redis_url", "http://localhost", ""),
        ("model.architecture", "resnet19", "resnet18"),
        ("model.num_classes", 0, ""),
        ("model.pretrained", True, ""),
        ("model.pretrained", "weights.pt", ""),
        ("model.target_layers", [], ""),
        ("model.seeds_per_layer", 0, ""),
        ("dataset.name", "cifar11", "cifar10"),
        ("dataset.batch_size", 0, ""),
        ("dataset.num_workers", -1, ""),
        ("dataset.validation_split", 1.0, ""),
        ("dataset.test_split", -0.1, ""),
        ("dataset.batch_form", "pairs", ""),
        ("optimization.optimizer", "adm", "adam"),
        ("optimization.learning_rate", 0.0, ""),
        ("optimization.learning_rate", float("nan"), ""),
        ("optimization.learning_rate", float("inf"), ""),
        ("optimization.momentum", 1.0, ""),
        ("optimization.scheduler", "cosin", "cosine"),
        ("optimization.max_epochs", 0, ""),
        ("optimization.loss_function", "crossentropy", "cross_entropy"),
        ("optimization.gradient_clip_norm", 0.0, ""),
        ("optimization.accumulation_steps", 0, ""),
        ("morphogenetic.tamiyo_url", "ftp://host", ""),
        ("morphogenetic.max_params_ratio", 0.5, ""),
        ("morphogenetic.confidence_threshold", 1.1, ""),
        ("morphogenetic.urgency_threshold", -0.1, ""),
        ("morphogenetic.adaptation_cooldown", -1.0, ""),
        ("morphogenetic.enable_blueprint_generation", True, ""),
        ("morphogenetic.seed.blend_schedule", "linaer", "linear"),
        ("morphogenetic.seed.blend_mode", "gate", "gated"),
        ("checkpoint.model_save_path", "model.pt", ""),
        ("checkpoint.model_save_path", ".safetensors", ""),
        ("logging.log_level", "info", "INFO"),
        ("logging.log_format", "xml", ""),
        ("trainer.compile_backend", "inducter", "inductor"),
        ("trainer.hook_budget_ms", 0.0, ""),
        ("services.tamiyo", "http", "local"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(key: str, value: Any, near: str) -> None:
    [text] = with_option(key, value).validate()
    assert text.startswith(f"{key}: given ")
    assert ", expected " in text
    assert text.endswith(near)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "cuda:1"),
        ("mixed_precision", "bf16"),
        ("model.num_classes", None),
        ("model.pretrained", "w.safetensors"),
        ("model.architecture", "torchvision.models.resnet18"),
        ("dataset.validation_split", 0.0),
        ("morphogenetic.tamiyo_url", None),
        ("oona_redis_url", "rediss://user:word@host:6380/1"),
        ("optimization.loss_function", "torch.nn.functional.cross_entropy"),
    ],
)
def test_values_that_are_right(key: str, value: Any) -> None:
    assert with_option(key, value).validate() == []


def test_options_that_contradict_each_other_are_told_together() -> None:
    config = TolariaConfig(mode="test", profile_training=True)
    config.dataset.validation_split = config.dataset.test_split = 0.5
    found = config.validate()
    assert [text.partition(":")[0] for text in found] == [
        "dataset.validation_split + dataset.test_split",
        "trainer.profiler_dir",
        "checkpoint.resume_from_checkpoint",
    ]


@pytest.mark.parametrize("policy", [{}, {"_target_": None}, {"_target_": "heuristik"}, {"target": "random"}])
def test_a_policy_has_to_be_named(policy: dict[str, Any]) -> None:
    [text] = with_option("morphogenetic.policy", policy).validate()
    assert text.startswith("morphogenetic.policy._target_: given ")


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("optimization.optimizer", "os.system", "optimization.optimizer"),
        ("model.architecture", "torch.hub.load", "model.architecture"),
        ("model.architecture", "torch.nn.Linear.__init__.__globals__", "model.architecture"),
        ("morphogenetic.policy", {"_target_": "os.system"}, "morphogenetic.policy._target_"),
        (
            "dataset.dataset_params",
            {"transform": [{"_target_": "builtins.open"}]},
            "dataset.dataset_params.transform[0]._target_",
        ),
        ("logging.wandb_config", {"a": {"_target_": "eval"}}, "logging.wandb_config.a._target_"),
    ],
)
def test_forbidden_targets_are_found_without_importing_them(key: str, value: Any, place: str) -> None:
    """The text of a target is checked before anything is imported."""
    [text] = with_option(key, value).validate()
    assert text.startswith(f"{place}: given ")


def test_allowed_targets_extend_the_list() -> None:
    config = with_option("optimization.optimizer", "mine.Adam")
    assert len(config.validate()) == 1
    config.allowed_targets = ["mine"]
    assert config.validate() == []
    config.allowed_targets = ["min"]
    assert len(config.validate()) == 1


def test_wrong_types_do_not_hide_what_else_is_wrong() -> None:
    config = with_option("seed", "one")
    config.optimization.max_epochs = 0
    assert [text.partition(":")[0] for text in config.validate()] == ["seed", "optimization.max_epochs"]
