"""Inner products of gradients, and combinations of them, as good as in float64."""

from __future__ import annotations

import torch
from torch import Tensor

# What is widened to float64 at a time: bounds the memory.
CHUNK = 1 << 18
# Elements that are multiplied in float32 at a time, and how many such blocks it takes to be worth while.
BLOCK, LEAST_BLOCKS = 512, 64


def gram_matrix(matrix: Tensor) -> Tensor:
    """The inner products of the rows of `matrix` (n, length): (n, n), in float64, on its device.

    In float64 throughout (float32 on mps, which has no other), but for float32 on a processor: there blocks
    of it are multiplied in float32 (three times as fast for eight rows) and added up in float64. That is off
    by some 1e-8 of the rows' norms, less than the elements' own rounding.
    """
    n, length = matrix.shape
    whole = length - length % BLOCK if _exact_in_float32(matrix) and length >= LEAST_BLOCKS * BLOCK else 0
    widest = widest_dtype(matrix.device)
    products = torch.zeros(n, n, dtype=widest, device=matrix.device)
    if whole:
        blocks = matrix[:, :whole].view(n, -1, BLOCK).transpose(0, 1)
        products += torch.bmm(blocks, blocks.mT).sum(dim=0, dtype=widest)
    for piece in matrix[:, whole:].split(CHUNK, dim=1):
        wide = piece.to(widest)
        products.addmm_(wide, wide.T)
    return products


def weighted_sum(weights: Tensor, matrix: Tensor) -> Tensor:
    """The sum of the rows of `matrix` (n, length), each times its weight (n,) in float64: (length,).

    Of the matrix's dtype; half precision is added up in float64 and rounded once.
    """
    if matrix.dtype.itemsize >= 4:
        return weights.to(matrix.dtype) @ matrix
    pieces = matrix.split(CHUNK, dim=1)
    return torch.cat([(weights @ piece.to(weights.dtype)).to(matrix.dtype) for piece in pieces])


def count_conflicts(products: Tensor) -> Tensor:
    """How many of the pairs of gradients point against each other, by their Gram matrix; no wait."""
    # each pair stands in it twice, and a square is not negative
    return (products < 0).sum() // 2


def widest_dtype(device: torch.device) -> torch.dtype:
    """The floating-point type with the most digits that a device computes with."""
    return torch.float32 if device.type == "mps" else torch.float64


def _exact_in_float32(matrix: Tensor) -> bool:
    # elsewhere, and where the user allows it, float32 products may be of ten bits (TF32) or eight
    exact = matrix.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return exact and matrix.dtype is torch.float32
