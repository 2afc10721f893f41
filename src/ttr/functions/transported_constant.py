from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.problem import Function, Problem, Solver, Weights, Worked, scale_or_default


@dataclass(frozen=True)
class TransportedConstant(Function):
    """A constant fitted around the query, pair i counting exp(scale q_t.k_i^(t)): PaTH attention (arXiv
    2505.16381).

    Every token transports the keys of the older pairs by a generalised reflection made of its controls, its
    transport key w
    and its step beta: k_i^(t) = H_t ... H_{i+1} k_i with H_j = I - beta_j w_j w_j^T. A pair's own token
    leaves its key alone. With unit w a step of 1 projects w out, and a step of 2 reflects.
    """

    scale: float | None = None

    local_degree: ClassVar[int] = 0
    transported: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"transport_key": "BTHK", "step_size": "BTH"}

    def formulas(self) -> dict[str, str]:
        return {
            "prediction": "m_t(k) = b_t, fitted for every query",
            "read-out": "y_t = b_t = sum_{i<=t} p_i v_i",
            "kernel": (
                "kappa_t(q, k_i) = exp(s q^T H_t ... H_{i+1} k_i), H_j = I - step_size_j u_j "
                "u_j^T, u = transport_key"
            ),
            "scale": "s = K^(-1/2)" if self.scale is None else f"s = {self.scale:g}",
            "normalisation": (
                "p_i = gamma_i^(t) kappa_t(q_t, k_i) / sum_{j<=t} gamma_j^(t) kappa_t(q_t, k_j)"
            ),
            "parallel form": (
                "products of the reflections H in WY form, block by block of tokens, then softmax"
            ),
            "approximation": "The kernel depends on the tokens between pair and query, not on query and "
            "key alone: a local constant in a wide "
            "sense, with no function class fixed beforehand.",
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if solver.corrects:
            return (
                f"{type(self).__name__} turns keys by the control step_size, by which "
                f"{type(solver).__name__} corrects values. "
                "Use ExactLocalFit, or LocalConstant."
            )
        return None

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return scale_or_default(self.scale, q.shape[-1]) * q

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return k

    @classmethod
    def examples(cls) -> tuple[TransportedConstant, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.solvers.exact_local_fit import ExactLocalFit
        from ttr.weights.uniform import Uniform

        # Scale ln 2, so the kernel is 2^(q.k). t = 1: y = v_1; w_1 acts on no key.
        # t = 2: w_2.k_1 = 1, k_1 becomes (2, 1.5) - 0.2 (2, -2) = (1.6, 1.9); q_2.k = -3, -4; weights as 2 :
        #     1.
        # t = 3: w_3.k = 3.65, 1.25, times 0.4: k_1 becomes (1.6, 1.9) - 1.46 (0.5, 1.5) = (0.87, -0.29), k_2
        #   (-2, 1.5) - 0.5 (0.5, 1.5) = (-2.25, 0.75); q_3.k = 0.29, -0.75, -1.25; weights as a : b : 1 with
        #   a = 2^1.54, b = 2^0.5.
        a, b = 2**1.54, 2**0.5
        q, k, v, w, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[3, 0.5], [0.5, -2], [0.5, 0.5]],
                [[2, 1.5], [-2, 1.5], [-0.5, -2]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [[-0.5, 3], [2, -2], [0.5, 1.5]],
                [
                    [2, -3, 0.5],
                    [2 / 3, -2 / 3, 4 / 3],
                    [
                        (2 * a - 2 * b + 5) / (a + b + 1),
                        (-3 * a + 4 * b - 0.5) / (a + b + 1),
                        (0.5 * a + 3 * b - 4) / (a + b + 1),
                    ],
                ],
            )
        )
        controls = {
            "transport_key": w,
            "step_size": torch.tensor([[[0.7], [0.2], [0.4]]], dtype=torch.float64),
        }
        return (Worked(Problem(Uniform(), cls(scale=math.log(2)), ExactLocalFit()), q, k, v, y, controls),)
