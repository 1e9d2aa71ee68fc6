"""Finds NaN and infinite values in a model: on its own device, or in copies by another thread with NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

# as much as fits into a processor's cache, and few enough that no other thread waits for it
_CHUNK = 1 << 18
_NARROW = (torch.float16, torch.bfloat16)


def non_finite_names(model: nn.Module) -> list[str]:
    """Names of the parameters that hold a NaN or an infinity, and of the buffers that hold a NaN.

    A buffer may be infinite on purpose, as an attention mask is. Waits for the device once.
    """
    weights = _floats(model.named_parameters())
    buffers = _floats(model.named_buffers())
    tensors = [tensor for _, tensor in (*weights, *buffers)]
    if not tensors:
        return []
    largest = torch._foreach_norm(tensors, math.inf)
    values = torch.stack([norm.float().to(tensors[0].device, non_blocking=True) for norm in largest])
    if values.isfinite().all():
        return []
    found = values.tolist()
    bad = [name for (name, _), value in zip(weights, found, strict=False) if not math.isfinite(value)]
    rest = zip(buffers, found[len(weights) :], strict=True)
    return bad + [name for (name, _), value in rest if math.isnan(value)]


def _floats(named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(name, t.detach()) for name, t in named if t.is_floating_point() and t.numel()]


def find_non_finite(tensors: Mapping[str, Tensor], is_buffer: Callable[[str], bool]) -> str:
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
