"""Sparse and dense products, on CPU and CUDA.

The one place that builds CSR tensors, so that what torch needs to be told about them is told once.
"""

from __future__ import annotations

import warnings

import torch

# A beta notice at the first CSR tensor; what is used here is held by tests.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def csr_matrix(
    crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, columns: int
) -> torch.Tensor:
    """A CSR matrix ``[len(crow) - 1, columns]``; indices are trusted, not checked.

    An entry may stand several times; each counts on its own.
    """
    return torch.sparse_csr_tensor(
        crow, col, values, size=(len(crow) - 1, columns), check_invariants=False
    )


def products_at(
    crow: torch.Tensor, col: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Dot products of rows of `left` and `right` at a CSR pattern, without gathering them.

    Args:
        crow: ``[len(left) + 1]``, row pointers.
        col: ``[n]``, row of `right` of each entry.
        left: ``[rows, d]``.
        right: ``[columns, d]``.

    Returns:
        ``[n]``, in the pattern's order.
    """
    if len(col) > len(left) * len(right):
        # torch takes a pattern with more entries than the matrix has places (repeated negatives
        # in a tiny batch) for a mistake; there are few, so gather them.
        rows = torch.repeat_interleave(crow.diff(), output_size=len(col))
        return (left[rows] * right[col]).sum(1)
    if len(col) == 0:
        return left.new_zeros(0)
    # Zeros, not empty: the product adds beta = 0 times them, and 0 times NaN is NaN.
    pattern = csr_matrix(crow, col, left.new_zeros(len(col)), len(right))
    return torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()


def weighted_sums(
    crow: torch.Tensor, col: torch.Tensor, weights: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """A CSR matrix times a table, ``[len(crow) - 1, d]``, without a gradient.

    As sums over bags: torch's compiled loop prefetches the rows it will add, and takes a third of
    the time of MKL's product on CPU.

    Args:
        crow: ``[rows + 1]``, row pointers.
        col: ``[n]``, row of `table` of each entry, in the type of `crow`.
        weights: ``[n]``, float32.
        table: ``[columns, d]``, float32.
    """
    if len(col) == 0:
        return table.new_zeros(len(crow) - 1, table.shape[1])
    return torch.nn.functional.embedding_bag(
        col, table, crow, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
