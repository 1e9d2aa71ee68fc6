"""Options in words: type, default, unit and limits."""

from __future__ import annotations

from typing import Any

import pytest

from esper.config import TolariaConfig
from esper.config.describe import DescribedOption, describe, type_name
from esper.config.serialization import option_names


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "int"),
        (bool | str, "bool or str"),
        (float | None, "float or null"),
        (list[str], "list[str]"),
        (dict[str, Any], "dict"),
    ],
)
def test_a_type_has_a_name_that_a_user_of_yaml_knows(hint: Any, name: str) -> None:
    assert type_name(hint) == name


def test_an_option_is_described_by_what_stands_beside_its_field() -> None:
    rows = {row.key: row for row in describe(TolariaConfig())}
    assert list(rows) == list(option_names(TolariaConfig))
    assert rows["morphogenetic.seed.blend_steps"] == DescribedOption(
        "morphogenetic.seed.blend_steps",
        "Length of the blend, in which alpha grows from 0 to 1.",
        "int",
        "100",
        "in steps, at least 0",
    )
    assert (rows["model.target_layers"].default, rows["run_dir"].default) == ("[nn.Linear]", "null")
    row = rows["morphogenetic.seed.blend_steps"]
    assert (row.group, row.name) == ("morphogenetic.seed", "blend_steps")
