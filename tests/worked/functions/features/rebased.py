from __future__ import annotations

import torch

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.rebased import Rebased


def cases() -> tuple[HandWorked, ...]:
    # Two channels m - h, m + h have variance h^2 and become -r, r with r = h / (h^2 + eps)^(1/2): eps = 48
    # gives r = 1/7, 1/2, 11/13 for h = 1, 4, 11. Times (2, 3), plus (-0.5, 0.25): x~ = (-2 r - 0.5, 3 r +
    # 0.25), and q~.k~ = 13 r s + 1.75 (r + s) + 0.3125 for a query with r and a key with s.
    q, k = [[3, 5], [6, -2], [-9, 13]], [[2, -6], [-7, -5], [8, -14]]
    r, s = [1 / 7, -1 / 2, 11 / 13], [-1 / 2, 1 / 7, -11 / 13]
    kernel = [
        [(13 * r[t] * s[i] + 1.75 * (r[t] + s[i]) + 0.3125) ** 2 / 2 for i in range(t + 1)] for t in range(3)
    ]
    params = {"gain": torch.tensor([2.0, 3.0]), "bias": torch.tensor([-0.5, 0.25])}
    return (kernel_case(Rebased(eps=48.0), q, k, kernel, params),)
