"""The number of monomials of a degree."""

from __future__ import annotations


def monomials(variables: int, degree: int) -> int:
    """Number of monomials of exactly that degree, C(variables + degree - 1, degree); math.comb does not take
    the symbolic sizes of torch.compile."""
    count = 1
    for i in range(degree):
        count = count * (variables + i) // (i + 1)
    return count
