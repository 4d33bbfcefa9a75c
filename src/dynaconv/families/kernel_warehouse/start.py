"""Cells of a warehouse that approximate given kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynaconv.families.kernel_warehouse.assembly import cut
from dynaconv.families.kernel_warehouse.assignment import Partition
from dynaconv.families.kernel_warehouse.reference import EPSILON


@torch.no_grad()
def fit_cells(kernels: Sequence[Tensor], parts: Partition) -> tuple[Tensor, list[Tensor], list[float]]:
    """Return the least-squares approximation of kernels by n cells, for temperature 0.

    The matrix of all blocks is approximated by its truncated singular value decomposition, the best of rank n.

    Args:
        kernels: Kernel of each layer, ``(C_out, C_in / groups, *k)``.
        parts: How the kernels are cut.

    Returns:
        The cells, the logits ``(M, n + 1)`` of each layer, and the relative error of each kernel, |W' - W| / |W|.
    """
    blocks = [cut(kernel.detach().double(), parts.cell).flatten(1) for kernel in kernels]
    sizes = [len(block) for block in blocks]
    rows, count = torch.cat(blocks), parts.num_cells
    wide = rows.shape[0] <= rows.shape[1]
    # Eigenvectors of the smaller product, in ascending order of their eigenvalues.
    vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)[1].flip(1)[:, :count]
    weights, cells = (vectors, vectors.T @ rows) if wide else (rows @ vectors, vectors.T)
    if cells.shape[0] < count:
        missing = count - cells.shape[0]
        weights = torch.cat((weights, weights.new_zeros(weights.shape[0], missing)), 1)
        cells = torch.cat((cells, cells.new_zeros(missing, cells.shape[1])))
    # Step 4 of the attention divides by the sum of all magnitudes; the null cell takes the rest of it.
    largest = weights.abs().sum(1).max().clamp(min=torch.finfo(weights.dtype).tiny)
    logits = weights / largest
    logits = torch.cat((logits, 1 - logits.abs().sum(1, keepdim=True)), 1)
    errors = [
        float((own @ cells - block).norm() / block.norm().clamp(min=torch.finfo(block.dtype).tiny))
        for own, block in zip(torch.split(weights, sizes), blocks, strict=True)
    ]
    cells = (cells * (largest * (1 + EPSILON))).reshape(count, *parts.cell)
    return cells, list(torch.split(logits, sizes)), errors
