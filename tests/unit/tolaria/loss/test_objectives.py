"""The values that a loss may return."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esper.errors import ConfigError
from esper.tolaria.loss.objectives import compute_loss, from_model, sum_losses

A, B = torch.tensor(1.0), torch.tensor(2.5)


def test_one_number_passes_as_it_is() -> None:
    assert compute_loss(lambda output, targets: output, A, None) is A


def test_several_objectives_come_in_a_dictionary_of_their_own() -> None:
    given = {"a": A, "b": B}
    found = compute_loss(lambda output, targets: given, None, None)
    assert found == given
    assert found is not given
    assert isinstance(found, dict)
    assert sum_losses(found).item() == 3.5


@pytest.mark.parametrize("wrong", [{}, {"a": torch.zeros(3)}, {"a": A, "b": 2.0}, {1: A}])
def test_objectives_are_one_scalar_a_name(wrong: dict[Any, Any]) -> None:
    with pytest.raises(ConfigError, match=r"loss_function: given .*, expected one number, or a scalar"):
        compute_loss(lambda output, targets: wrong, None, None)


def test_a_model_may_return_its_losses_itself() -> None:
    assert from_model(A, None) is A
    assert from_model({"a": A}, None) == {"a": A}


@pytest.mark.parametrize(("output", "described"), [(torch.zeros(4, 2), r"shape \(4, 2\)"), ("text", "str")])
def test_a_model_that_returns_something_else_is_reported(output: Any, described: str) -> None:
    with pytest.raises(ConfigError, match=f"in evaluation mode, too .its output is .*{described}"):
        from_model(output, None)
