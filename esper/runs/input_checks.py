"""Whether the inputs of a dataset of the user's own are numbers that the shipped networks take."""

from __future__ import annotations

from collections.abc import Iterator

from esper.data import DataInfo

_FLOATS = {"float16", "bfloat16", "float64"}
_WHITE = {"uint8": 255, "uint16": 65535}  # what the largest value of these stands for


def dtype_problems(data_info: DataInfo, architecture: str) -> Iterator[str]:
    """A sentence where a batch is not float32, with the conversion that works; `mlp` casts other floats.

    Whole numbers are not scaled here: whether 16 bits are used in full, only the dataset knows.
    """
    dtype = data_info.dtype
    if dtype in (None, "float32") or (architecture == "mlp" and dtype in _FLOATS):
        return
    scale = f" / {_WHITE[dtype]}" if dtype in _WHITE else ""
    yield (
        f"dataset.name: {data_info.name} gives inputs of {dtype}, the shipped architectures take float32; "
        f"convert them in its __getitem__ or its collate, for instance with .float(){scale}"
    )
