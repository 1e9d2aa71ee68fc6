"""Inner products and weighted sums of gradients, with the accuracy of float64."""

from __future__ import annotations

import torch
from torch import Tensor

# Elements that are converted to float64 at a time, which limits the memory.
CHUNK = 1 << 18
# Elements per block of float32 products, and from how many blocks on these are faster.
BLOCK, LEAST_BLOCKS = 512, 64


def gram_matrix(matrix: Tensor) -> Tensor:
    """The Gram matrix of the rows of `matrix` (n, length): (n, n), in float64, on its device.

    Computed in float64 (float32 on mps, which has no float64). float32 on a CPU is multiplied in blocks in
    float32 (three times as fast for eight rows) and summed in float64; the error is about 1e-8 of the rows'
    norms, less than the rounding of the elements.
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
    """The sum of the rows of `matrix` (n, length), times their `weights` (n,) in float64: (length,).

    In the dtype of the matrix; half precision is summed in float64 and rounded once.
    """
    if matrix.dtype.itemsize >= 4:
        return weights.to(matrix.dtype) @ matrix
    pieces = matrix.split(CHUNK, dim=1)
    return torch.cat([(weights @ piece.to(weights.dtype)).to(matrix.dtype) for piece in pieces])


def count_conflicts(products: Tensor) -> Tensor:
    """The number of pairs of gradients with a negative inner product, from their Gram matrix, as a tensor."""
    # each pair is in it twice, and the diagonal is not negative
    return (products < 0).sum() // 2


def widest_dtype(device: torch.device) -> torch.dtype:
    """The most precise floating-point type that a device supports."""
    return torch.float32 if device.type == "mps" else torch.float64


def _exact_in_float32(matrix: Tensor) -> bool:
    # on other devices, or if the user allows it, float32 products may have ten bits (TF32) or eight
    exact = matrix.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return exact and matrix.dtype is torch.float32
