"""The exponential kernel that local functions share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.functions._monomials import monomials
from ttr.problem import Function, scale_or_default


@dataclass(frozen=True)
class _ExponentialKernel(Function):
    """Pair i has the kernel weight exp(scale q.k_i) for the query q. Abstract: subclasses set the degree of
    the fit.

    ``scale`` None means K**-0.5; with ``learned_scale`` it is the initial value of the parameter
    "function.scale" [H]. ``unit_norm`` divides queries and keys by their norms first.
    """

    scale: float | None = None
    unit_norm: bool = False
    learned_scale: bool = False

    def controls(self) -> dict[str, str]:
        return {"ridge": "HF"} if self.local_degree else {}

    def feature_size(self, key_size: int) -> int:
        """Monomials of K variables and degree 1 to that of the fit."""
        return monomials(key_size + 1, self.local_degree) - 1

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        start = scale_or_default(self.scale, key_size)
        return {"scale": Parameter((heads,), constant(start))} if self.learned_scale else {}

    def formulas(self) -> dict[str, str]:
        scale = "s = K^(-1/2)" if self.scale is None else f"s = {self.scale:g}"
        unit = (
            "kappa(q, k) = exp(s q^T k / (||q|| ||k||))" if self.unit_norm else ("kappa(q, k) = exp(s q^T k)")
        )
        return {
            "kernel": unit,
            "scale": scale
            + (", the initial value of the learned scale of every head" if self.learned_scale else ""),
            "normalisation": "p_i = gamma_i^(t) kappa(q_t, k_i) / sum_{j<=t} gamma_j^(t) kappa(q_t, k_j)",
        }

    def plain_scale(self, key_size: int) -> float | None:
        return None if self.unit_norm or self.learned_scale else scale_or_default(self.scale, key_size)

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        scale = (
            params["scale"][..., None] if self.learned_scale else scale_or_default(self.scale, q.shape[-1])
        )
        return (scale * _inverse_norm(q) if self.unit_norm else scale) * q

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return k * _inverse_norm(k) if self.unit_norm else k


def _inverse_norm(x: Tensor) -> Tensor:
    """[...,1] of rows [...,K]; finite for rows of zeros."""
    return (x * x).sum(-1, keepdim=True).add(1e-12).rsqrt()
