from __future__ import annotations

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.symmetric_power import SymmetricPower


def cases() -> tuple[HandWorked, ...]:
    # The scores d = q_t.k_i are 12 | -5, -7 | -2.5, 2, -9; d / 2^(1/2) to the second is d^2 / 2, to the
    # fourth d^4 / 4.
    q, k = [[2, 3], [-3, 2], [0.5, -2]], [[3, 2], [2, -0.5], [-2, 4]]
    second = [[72], [12.5, 24.5], [3.125, 2, 40.5]]
    fourth = [[5184], [156.25, 600.25], [9.765625, 4, 1640.25]]
    return (
        kernel_case(SymmetricPower(), q, k, second, {}),
        kernel_case(SymmetricPower(degree=4), q, k, fourth, {}),
    )
