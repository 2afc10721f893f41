from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.forms import KernelPairs
from ttr.inputs import Inputs
from ttr.problem import Function, Solver, Weights, scale_or_default


@dataclass(frozen=True)
class KernelRegression(Function):
    """m(k) = sum_i kappa(k, k_i) c_i, a function of the reproducing kernel space of kappa: kernel ridge
    regression reads y = kappa(q, K) (kappa(K, K) + ridge Gamma^-1)^-1 V (kernelised Intention, arXiv
    2305.10203).

    ``kernel``: "exponential" exp(scale q.k) or "gaussian" exp(-scale/2 ||q - k||^2); ``scale`` None means
    K^-1/2. The memory stores the pairs, and the ridge is one number per head.
    """

    kernel: Literal["exponential", "gaussian"] = "exponential"
    scale: float | None = None

    linear: ClassVar[bool] = True
    form: ClassVar[type] = KernelPairs

    def __post_init__(self) -> None:
        if self.kernel not in ("exponential", "gaussian"):
            raise ValueError(
                f"KernelRegression(kernel={self.kernel!r}) is unknown. Use 'exponential' or 'gaussian'."
            )

    def feature_size(self, key_size: int) -> int:
        return 1

    def formulas(self) -> dict[str, str]:
        kernel = {"exponential": "exp(s q^T k)", "gaussian": "exp(-s ||q - k||^2 / 2)"}[self.kernel]
        return {
            "objective": (
                "sum_{i<=t} gamma_i^(t) ||v_i - m(k_i)||^2 / 2 + ridge ||m||^2 / 2 in the space of kappa"
            ),
            "prediction": "m(x) = sum_{i<=t} kappa(x, k_i) c_i",
            "kernel": f"kappa(q, k) = {kernel}",
            "update": (
                "C = (kappa(K, K) + ridge Gamma^-1)^-1 V of all pairs so far, Gamma = "
                "diag(gamma_i^(t)), c_i the rows of C"
            ),
            "read-out": "y_t = kappa(q_t, K) C",
            "scale": "s = K^(-1/2)" if self.scale is None else (f"s = {self.scale:g}"),
            "parallel form": (
                "the systems of all tokens are leading blocks of one matrix, factored once if nothing decays"
            ),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if solver.exact != "global":
            return (
                f"{self!r} has a parameter for every pair, which {type(solver).__name__} cannot fit. Use "
                "ExactRidge, or Linear with features."
            )
        return None

    def lower_pairs(self, form: KernelPairs, x: Inputs) -> KernelPairs:
        key, value = x.grouped(form.key), x.grouped(form.value)
        return dataclasses.replace(form, key=key, value=value, kernel=self.kernel_matrix)

    def kernel_matrix(self, left: Tensor, right: Tensor) -> Tensor:
        scale = scale_or_default(self.scale, left.shape[-1])
        dot = (scale * left) @ right.mT
        if self.kernel == "exponential":
            return dot.exp_()
        squares = left.square().sum(-1)[..., :, None] + right.square().sum(-1)[..., None, :]
        return torch.exp(dot - 0.5 * scale * squares)

    @classmethod
    def examples(cls) -> tuple[KernelRegression, ...]:
        return (cls(), cls("gaussian", scale=0.8))
