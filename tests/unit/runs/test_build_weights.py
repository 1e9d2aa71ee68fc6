"""`model.pretrained`: all of a file or nothing, and what differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from esper.errors import ConfigError
from esper.runs.pretrained import load_weights, weight_problems


def test_weights_come_back(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_meta_model_can_be_compared(tmp_path: Path) -> None:
    save_file(nn.Linear(3, 2).state_dict(), tmp_path / "w.safetensors")
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    assert weight_problems(model, tmp_path / "w.safetensors") == []


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "bias is missing"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, r"bias has shape \(3,\), the model \(2,\)"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "wight": torch.zeros(1)},
            "wight has no place .nearest: weight",
        ),
    ],
)
def test_what_differs_is_named_and_nothing_is_loaded(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ConfigError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.weight, before)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.safetensors")
    [text] = weight_problems(nn.Linear(3, 2), tmp_path / "w.safetensors")
    assert "expected a safetensors file" in text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    [text] = weight_problems(nn.Linear(3, 2), tmp_path / "no.safetensors")
    assert "no.safetensors" in text
