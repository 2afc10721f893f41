from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Function, Problem, Solver, Weights, Worked, scale_or_default


@dataclass(frozen=True)
class KernelRegression(Function):
    """m(k) = sum_i kappa(k, k_i) c_i, a function of the reproducing kernel space of kappa: kernel ridge
    regression reads y = kappa(q, K) (kappa(K, K) + ridge Gamma^-1)^-1 V (kernelised Intention, arXiv
    2305.10203).

    ``kernel``: "exponential" exp(scale q.k) or "gaussian" exp(-scale/2 ||q - k||^2); ``scale`` None means
    K^-1/2. The memory keeps the pairs, and the ridge is one number per head.
    """

    kernel: Literal["exponential", "gaussian"] = "exponential"
    scale: float | None = None

    linear: ClassVar[bool] = True
    dual: ClassVar[bool] = True

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
                "the systems of all tokens are leading blocks of one matrix, factored once "
                "while nothing is forgotten"
            ),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if solver.exact != "global":
            return (
                f"{self!r} has a parameter for every pair, which {type(solver).__name__} cannot fit. Use "
                "ExactRidge, or Linear with features."
            )
        return None

    def kernel_matrix(self, left: Tensor, right: Tensor) -> Tensor:
        scale = scale_or_default(self.scale, left.shape[-1])
        dot = left @ right.mT
        if self.kernel == "exponential":
            return torch.exp(scale * dot)
        squares = left.square().sum(-1)[..., :, None] + right.square().sum(-1)[..., None, :]
        return torch.exp(-0.5 * scale * (squares - 2 * dot))

    @classmethod
    def examples(cls) -> tuple[KernelRegression, ...]:
        return (cls(), cls("gaussian", scale=0.8))

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.solvers.exact_ridge import ExactRidge
        from ttr.weights.importance import Importance

        # Pairs count 0.5, 3, 0.25 and the ridge is 0.7, so 1.4, 7/30, 2.8 are added to the diagonal. y_t =
        # sum_i w_i v_i with (kappa(K, K) + ridge Gamma^-1) w = kappa(K, q_t), and k_i.k_j = [[4.25, -0.25,
        # 2.75], [., 2.5, -1.5], [., ., 2.5]].
        q, k, v, exponential, gaussian = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2.2, 1.5], [-1.5, 1.2], [0.25, -1.2]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                # exp(0.4 q.k): kappa(K, K) = [[5.473947391727, 0.904837418036, 3.004166023946], [.,
                #   2.718281828459, 0.548811636094], [., ., 2.718281828459]].
                # t = 1: kappa(K, q) = (5.155169512235), w = (0.749957661654).
                # t = 2: kappa(K, q) = (1.934792334402, 0.319819021816), w = (0.278440386839, 0.022996135130).
                # t = 3: kappa(K, q) = (0.402524224034, 1.476980793883, 0.463013068311), w = (-0.029128185383,
                #     0.500023853942, 0.050033701140).
                [
                    [1.499915323309, -2.249872984963, 0.374978830827],
                    [0.510888503419, -0.743336619999, 0.208208598809],
                    [-0.808135572952, 2.062463121350, 1.285372664577],
                ],
                # exp(-0.15 ||q - k||^2): kappa(K, K) = [[1.000000000000, 0.337058086494, 0.829029118180],
                #   [., 1.000000000000, 0.301194211912], [., ., 1.000000000000]].
                # t = 1: kappa(K, q) = (0.624377578411), w = (0.260157324338).
                # t = 2: kappa(K, q) = (0.498575622991, 0.168048945458), w = (0.196131702580, 0.082655001961).
                # t = 3: kappa(K, q) = (0.213231894268, 0.735007188166, 0.307932400190), w = (-0.006196982721,
                #     0.588925132150, 0.035707641647).
                [
                    [0.520314648676, -0.780471973014, 0.130078662169],
                    [0.226953401237, -0.257775099894, 0.346030857174],
                    [-1.011706021508, 2.356437655939, 1.620846338504],
                ],
            )
        )
        controls = {
            "ridge": torch.tensor(0.7, dtype=torch.float64),
            "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
        }
        return (
            Worked(Problem(Importance(), cls(scale=0.4), ExactRidge()), q, k, v, exponential, controls),
            Worked(
                Problem(Importance(), cls("gaussian", scale=0.3), ExactRidge()), q, k, v, gaussian, controls
            ),
        )
