"""Which options a resumed run may change, from one table."""

from __future__ import annotations

import pytest

from esper.config import TolariaConfig
from esper.config.diff import ALLOWED, config_diff
from esper.config.serialization import enclosing_dict, option_names, option_type


def differing(**options: object) -> list[tuple[str, bool]]:
    config = TolariaConfig()
    for path, value in options.items():
        group, _, name = path.rpartition("__")
        setattr(getattr(config, group) if group else config, name, value)
    return [(c.key, c.allowed) for c in config_diff(TolariaConfig().to_dict(), config.to_dict())]


def test_equal_configurations_do_not_differ() -> None:
    assert differing() == []


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("seed", 1, "seed"),
        ("mixed_precision", "bf16", "mixed_precision"),
        ("model__architecture", "mlp", "model.architecture"),
        ("model__model_params", {"width": 3}, "model.model_params.width"),
        ("dataset__name", "digits", "dataset.name"),
        ("dataset__batch_size", 64, "dataset.batch_size"),
        ("dataset__use_augmentation", False, "dataset.use_augmentation"),
        ("optimization__optimizer", "sgd", "optimization.optimizer"),
        ("optimization__learning_rate", 0.5, "optimization.learning_rate"),  # the saved state holds it
        ("optimization__accumulation_steps", 2, "optimization.accumulation_steps"),
        ("morphogenetic__policy", {"_target_": "random"}, "morphogenetic.policy._target_"),
        ("morphogenetic__tamiyo_enabled", False, "morphogenetic.tamiyo_enabled"),
        ("trainer__limit_train_batches", 3, "trainer.limit_train_batches"),
    ],
)
def test_what_a_saved_state_depends_on_is_fixed(option: str, value: object, key: str) -> None:
    assert differing(**{option: value}) == [(key, False)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("optimization__max_epochs", 200),
        ("optimization__early_stopping_patience", 0),
        ("logging__use_wandb", True),
        ("logging__log_level", "DEBUG"),
        ("checkpoint__max_checkpoints", 9),
        ("dataset__data_root", "/elsewhere"),
        ("dataset__num_workers", 0),
        ("trainer__num_threads", 3),
        ("morphogenetic__confidence_threshold", 0.1),
        ("services__probe_timeout_s", 1.0),
        ("device", "cpu"),
    ],
)
def test_what_only_says_where_how_long_or_how_told_may_change(option: str, value: object) -> None:
    assert differing(**{option: value}) == [(option.replace("__", "."), True)]


def test_what_always_differs_is_not_spoken_of() -> None:
    assert differing(run_dir="x", mode="test", checkpoint__resume_from_checkpoint="auto", dry_run=True) == []


def test_a_change_says_saved_and_given_and_what_follows() -> None:
    saved, given = TolariaConfig().to_dict(), TolariaConfig().to_dict()
    given["optimization"]["max_epochs"] = 200
    (change,) = config_diff(saved, given)
    assert str(change).startswith(
        "optimization.max_epochs: saved 100, given 200 (from here on the learning rate"
    )


def test_options_that_one_side_does_not_know_are_fixed() -> None:
    """A checkpoint of another version."""
    given = TolariaConfig().to_dict()
    found = config_diff({**given, "warp": {"factor": 9}}, given)
    assert [(c.key, c.saved, c.given, c.allowed) for c in found] == [("warp.factor", 9, None, False)]


def test_every_row_of_the_table_is_about_something() -> None:
    known = set(option_names(TolariaConfig))
    for row in ALLOWED:
        found = row in known or option_type(TolariaConfig, row) is not None
        assert found or enclosing_dict(TolariaConfig, row) is not None, row
