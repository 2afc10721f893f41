from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.forms import CorrectedPairs, TransportedPairs
from ttr.problem import Function, Solver, Weights, scale_or_default


@dataclass(frozen=True)
class TransportedConstant(Function):
    """A constant fitted around the query with the kernel weights exp(scale q_t.k_i^(t)): PaTH attention
    (arXiv 2505.16381).

    Every token transports the keys of the older pairs by a generalised reflection made of its controls, its
    transport key w and its step beta: k_i^(t) = H_t ... H_{i+1} k_i with H_j = I - beta_j w_j w_j^T. A token
    does not transport its own key. With unit w a step of 1 projects w out, and a step of 2 reflects.
    """

    scale: float | None = None

    local_degree: ClassVar[int] = 0
    form: ClassVar[type] = TransportedPairs

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
        if solver.form is CorrectedPairs:
            return (
                f"{type(self).__name__} transports keys with the control step_size, with which "
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
