"""The one table of short names agrees with the packages that define the targets."""

from __future__ import annotations

from importlib import import_module

import pytest

from esper.config import aliases
from esper.data import DATASETS
from esper.models import MODELS


@pytest.mark.parametrize("table", [*aliases.SHORT_NAMES.values(), aliases.POLICIES])
def test_every_short_name_stands_for_something(table: dict[str, str]) -> None:
    for target in table.values():
        module, _, name = target.rpartition(".")
        assert callable(getattr(import_module(module), name))


def test_the_rooms_know_the_same_names() -> None:
    assert sorted(aliases.MODELS) == sorted(MODELS)
    assert sorted(aliases.DATASETS) == sorted(DATASETS)


def test_a_model_is_the_same_by_both_its_names() -> None:
    for short, target in aliases.MODELS.items():
        module, _, name = target.rpartition(".")
        assert MODELS[short] is getattr(import_module(module), name)
