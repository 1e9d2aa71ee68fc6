"""Whether the numbers of a captured model are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

# as much as fits into a processor's cache, and few enough that no other thread waits for it
_CHUNK = 1 << 18
_NARROW = (torch.float16, torch.bfloat16)


def unsound(tensors: Mapping[str, Tensor], is_buffer: Callable[[str], bool]) -> str:
    """The first value of a model that is none: a sentence, or nothing where all is sound.

    Parameters have to be finite. Buffers may hold an infinity (attention masks do), but no NaN. Meant for
    another thread than the one that trains: NumPy adds up, for torch would start a second set of workers.
    """
    for name, tensor in tensors.items():
        found = _worst(tensor) if tensor.is_floating_point() else ""
        if found == "NaN" or (found and not is_buffer(name)):
            return f"{name} holds {found}"
    return ""


def _worst(tensor: Tensor) -> str:
    worst = ""
    for chunk in _chunks(tensor):
        with np.errstate(all="ignore"):
            # a sum is finite only where every term is, and costs a third of looking at each
            total = chunk.sum(dtype=np.float64)
        if not np.isfinite(total):
            if np.isnan(chunk).any():
                return "NaN"
            if np.isinf(chunk).any():
                worst = "Inf"
    return worst


def _chunks(tensor: Tensor) -> Iterator[np.ndarray]:
    flat = tensor.detach().cpu().contiguous().view(-1)
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        yield (chunk.float() if chunk.dtype in _NARROW else chunk).numpy()


def is_buffer(model: nn.Module, name: str) -> bool:
    """Whether `name` is that of a buffer; the module may change meanwhile, so nothing is listed."""
    path, _, leaf = name.rpartition(".")
    try:
        return leaf in model.get_submodule(path)._buffers
    except AttributeError:
        return False
