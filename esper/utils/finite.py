"""Finds NaN and infinite values in a model, on its device; or in copies, with NumPy in another thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

# small enough for the CPU's cache, and short enough not to block other threads
_CHUNK = 1 << 18
_NARROW = (torch.float16, torch.bfloat16)


def non_finite_names(model: nn.Module) -> list[str]:
    """Names of the parameters that contain NaN or infinity, and of the buffers that contain NaN.

    A buffer may be infinite on purpose, as an attention mask. Synchronises with the device once.
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
    """A message for the first tensor that is not finite; empty if there is none.

    Parameters must be finite. Buffers may contain infinity (as attention masks), but no NaN. For another
    thread than the one that trains: it uses NumPy, because torch would start a second pool of threads.
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
            # a sum is finite only if every term is, and takes a third of the time of np.isfinite
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
    """Whether `name` is that of a buffer; without a list of all, because the module may change meanwhile."""
    path, _, leaf = name.rpartition(".")
    try:
        return leaf in model.get_submodule(path)._buffers
    except AttributeError:
        return False
