from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from esper.config import DatasetConfig
from esper.data import DataInfo
from esper.data.custom import open_custom
from esper.runs.input_checks import dtype_problems


def info_of(dtype: torch.dtype) -> DataInfo:
    data = TensorDataset(torch.zeros(8, 1, 4, 4).to(dtype), torch.arange(8) % 2)
    return open_custom(DatasetConfig(name="my.Data"), lambda: data, collate=None, seed=0).info


@pytest.mark.parametrize(
    ("dtype", "works"),
    [
        (torch.uint8, ".float() / 255"),
        (torch.uint16, ".float() / 65535"),
        (torch.int64, ".float()"),
        (torch.float64, ".float()"),
        (torch.bool, ".float()"),
    ],
)
def test_inputs_that_are_not_float32_are_refused_with_the_conversion_that_works(
    dtype: torch.dtype, works: str
) -> None:
    [text] = dtype_problems(info_of(dtype), "convnet")
    assert text.startswith(f"dataset.name: my.Data gives inputs of {str(dtype).removeprefix('torch.')}, ")
    assert text.endswith(f"for instance with {works}")


def test_float32_inputs_and_batches_of_another_form_are_taken() -> None:
    assert list(dtype_problems(info_of(torch.float32), "convnet")) == []
    assert list(dtype_problems(info_of(torch.float64), "mlp")) == []
    unknown = open_custom(DatasetConfig(name="my.Data"), lambda: [{"x": 1.0}], collate=None, seed=0).info
    assert list(dtype_problems(unknown, "convnet")) == []
