"""The laws that every problem must pass on every engine: run by the tests and by ``ttr verify`` alike.

Laws 1, 7 equality; 2, 3, 4 streaming; 5, 6, 8 symmetry; 9, 10, 11 calculus; 12 layout; 13 sizes. All
tolerances are in ``tolerances``.
"""

from ttr.laws import calculus, equality, layout, sizes, streaming, symmetry
from ttr.laws.law import Law, Measurement, Setting

GROUPS = (equality, streaming, symmetry, calculus, layout, sizes)
LAWS: tuple[Law, ...] = tuple(
    sorted((law for group in GROUPS for law in group.LAWS), key=lambda law: law.number)
)

__all__ = ["LAWS", "Law", "Measurement", "Setting"]
