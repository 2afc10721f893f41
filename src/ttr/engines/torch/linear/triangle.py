"""Inverses of unit lower triangular matrices, many small ones at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LEAF = 8
"""Blocks up to this size are inverted by substitution, larger ones from their halves."""


def unit_lower_inverse(matrix: Float[Tensor, "G N N"], out: Float[Tensor, "G N N"]) -> Float[Tensor, "G N N"]:
    """(I + L)^-1 for the part L of every matrix below its diagonal; the rest of ``matrix`` is not read.

    The diagonal is cut into leaves that are inverted by substitution, row by row, all leaves of all matrices
    at once with the matrices along the fastest axis. Two neighbours X_1, X_2 are then merged with the block
    L_21 below the first,

        [I + L_1     0    ]^-1     [     X_1         0  ]
        [  L_21   I + L_2 ]     =  [-X_2 L_21 X_1   X_2 ]

    Powers of a whole L are avoided, since they grow without bound where keys are alike; substitution and
    merges lose no digits.
    """
    size = matrix.shape[-1]
    leaf = size
    while leaf > LEAF and leaf % 2 == 0:
        leaf //= 2
    out.zero_()
    _diagonal_blocks(out, leaf).copy_(_by_substitution(_diagonal_blocks(matrix, leaf)))
    while leaf < size:
        first, second = _diagonal_blocks(out, leaf).unflatten(1, (-1, 2)).unbind(2)
        below = _diagonal_blocks(matrix, 2 * leaf)[:, :, leaf:, :leaf]
        product = torch.bmm(below.flatten(0, 1), first.flatten(0, 1))
        corner = torch.bmm(second.flatten(0, 1), product).neg_()
        _diagonal_blocks(out, 2 * leaf)[:, :, leaf:, :leaf].copy_(corner.unflatten(0, below.shape[:2]))
        leaf *= 2
    return out


def _diagonal_blocks(matrix: Float[Tensor, "G N N"], size: int) -> Float[Tensor, "G blocks {size} {size}"]:
    """The blocks on the diagonal, as a view."""
    batch, row, column = matrix.stride()
    return matrix.as_strided(
        (matrix.shape[0], matrix.shape[-1] // size, size, size),
        (batch, size * (row + column), row, column),
        matrix.storage_offset(),
    )


def _by_substitution(blocks: Float[Tensor, "G m s s"]) -> Float[Tensor, "G m s s"]:
    """Row i of the inverse is e_i - sum_{j<i} L_ij X_j."""
    size = blocks.shape[-1]
    lower = blocks.permute(2, 3, 0, 1).contiguous()
    inverse = torch.zeros_like(lower)
    inverse.diagonal(dim1=0, dim2=1).fill_(1.0)
    for i in range(1, size):
        torch.sum(lower[i, :i, None] * inverse[:i, :i], dim=0, out=inverse[i, :i]).neg_()
    return inverse.permute(2, 3, 0, 1)
