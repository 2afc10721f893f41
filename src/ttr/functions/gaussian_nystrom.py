from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.forms import Landmarks
from ttr.inputs import Inputs
from ttr.problem import Function, Solver, Weights, scale_or_default


@dataclass(frozen=True)
class GaussianNystrom(Function):
    """A sum of Gaussians around the keys, through landmarks: y = C_q W^+ C_k^T V (Skyformer, arXiv
    2111.00035; SOFT, 2110.11945).

    C_q and C_k hold kappa(x, z) = exp(-scale/2 ||x - z||^2) between queries or keys and m ``landmarks`` z,
    and W is that of the landmarks plus ``ridge`` on its diagonal. With every point a landmark and no ridge
    this is the plain kernel sum K V (not kernel ridge regression): one gradient step from 0, like linear
    attention. Rows are not normalised. Every token reads the whole sequence.

    W^+ is defined by exactly ``steps`` iterations, ``inverse``:
        "balanced": W is divided by the roots of its row sums on both sides, W~ = D W D; from
            Z = W~^T / max column sum, Z <- Z (13 - X (15 - X (7 - X))) / 4 with X = W~ Z; W^+ = D Z D
            (Skyformer).
        "newton": from Z = 2 W / (max row sum)^2, Z <- 2 Z - Z W Z (SOFT, its algorithm 1). That start is on
            the border of convergence, and a direction along which all rows have the same sum is lost: one or
            two landmarks are too few.

    Landmarks are the first points, or with ``pooled`` the means, of equal segments of the sequence: m of the
    queries, or for ``landmarks_of`` "both" half of the queries and half of the keys. In a shorter sequence
    every point is a landmark.
    """

    landmarks: int = 64
    landmarks_of: Literal["both", "queries"] = "both"
    pooled: bool = False
    inverse: Literal["balanced", "newton"] = "balanced"
    ridge: float = 0.1
    steps: int = 6
    scale: float | None = None

    linear: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    form: ClassVar[type] = Landmarks

    def __post_init__(self) -> None:
        for name, allowed in (("landmarks_of", ("both", "queries")), ("inverse", ("balanced", "newton"))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown. Use {allowed[0]!r} or {allowed[1]!r}."
                )
        if self.landmarks < 2 or self.steps < 1 or self.ridge < 0:
            raise ValueError(
                f"GaussianNystrom(landmarks={self.landmarks}, steps={self.steps}, "
                f"ridge={self.ridge}) gives no inverse. "
                "Use at least 2 landmarks, 1 step and a ridge of 0."
            )

    def formulas(self) -> dict[str, str]:
        sequence = {"both": "queries and keys", "queries": "queries"}[self.landmarks_of]
        points = f"{'means' if self.pooled else 'first points'} of equal segments of the {sequence}"
        step = {
            "balanced": "Z <- Z (13 - X (15 - X (7 - X))) / 4 from B over its largest column sum, X = B "
            "Z, W^+ = D Z D, B = D W D, "
            "D^-2 = diag(row sums of W)",
            "newton": "Z <- 2 Z - Z W Z from 2 W over its largest row sum squared, W^+ = Z",
        }[self.inverse]
        return {
            "objective": (
                "||m||^2 / 2 - sum_i v_i^T m(k_i) in the space of the approximated kernel, i over all tokens"
            ),
            "prediction": "m(x) = kappa(x, L) W^+ sum_i kappa(L, k_i) v_i, W = kappa(L, L) + "
            f"{self.ridge:g} I, "
            f"L = {self.landmarks} landmarks, the {points}",
            "kernel": "kappa(x, z) = exp(-s ||x - z||^2 / 2)",
            "update": f"{self.steps} times {step}",
            "read-out": "y_t = m(q_t)",
            "scale": "s = K^(-1/2)" if self.scale is None else f"s = {self.scale:g}",
            "order": "every token reads the whole sequence: there is nothing to update token by token",
            "parallel form": "Y = kappa(Q, L) (W^+ (kappa(L, K) V)), products with the landmarks alone",
            "approximation": "One gradient step in a space of functions, whose Gaussian kernel is "
            "approximated through landmarks (Nystrom): "
            "a plain sum over pairs, neither causal nor normalised. The ridge stabilises "
            "the inverse; it does not regularise a fit.",
        }

    def memory(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        return {}

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if weights.controls() or weights.folds or weights.retention is not None or weights.window is not None:
            return (
                f"In {type(self).__name__} every token reads the whole sequence with equal weights. "
                "Use Uniform, or Linear with these weights."
            )
        if not solver.additive or solver.folds:
            return (
                f"{type(self).__name__} is a sum over all pairs, which {type(solver).__name__} does not "
                "build. Use OneStep, or Linear."
            )
        return None

    def landmark_counts(self, time: int) -> tuple[int, int]:
        """How many queries and how many keys are landmarks in a sequence of that length."""
        queries = self.landmarks if self.landmarks_of == "queries" else self.landmarks // 2
        return min(queries, time), min(self.landmarks - queries, time)

    def lower_whole(self, x: Inputs) -> Landmarks:
        params = x.axis_params("function")
        return Landmarks(
            self.query(x.grouped(x.q), params),
            self.key(x.grouped(x.k), params),
            x.grouped(x.v),
            self.landmark_counts(x.length),
            self.pooled,
            self.ridge,
            self.inverse,
            self.steps,
        )

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        if q.shape[-1] == 0 and q.shape[:-1].numel() and self.inverse == "newton":
            raise ValueError(
                "Without key channels all landmarks coincide, and the Newton iteration loses "
                "their direction. Use inverse='balanced'."
            )
        return math.sqrt(scale_or_default(self.scale, q.shape[-1])) * q

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return self.query(k, params)

    def whole(self, query: Tensor, key: Tensor, value: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        points = [
            point
            for x, count in zip((query, key), self.landmark_counts(query.shape[2]))
            for point in self._landmarks(x, count)
        ]
        landmarks = torch.stack(points, dim=2)
        identity = torch.eye(landmarks.shape[2], dtype=query.dtype)
        kernel = _gaussian(landmarks, landmarks) + self.ridge * identity
        if self.inverse == "newton":
            z = 2 * kernel / kernel.sum(-1).amax(-1)[..., None, None] ** 2
            for _ in range(self.steps):
                z = 2 * z - z @ kernel @ z
        else:
            root = torch.diag_embed(kernel.sum(-1).rsqrt())
            balanced = root @ kernel @ root
            z = balanced.mT / balanced.sum(-2).amax(-1)[..., None, None]
            for _ in range(self.steps):
                x = balanced @ z
                z = 0.25 * z @ (13 * identity - x @ (15 * identity - x @ (7 * identity - x)))
            z = root @ z @ root
        return (_gaussian(query, landmarks) @ z @ _gaussian(key, landmarks).mT @ value).transpose(1, 2)

    def _landmarks(self, x: Tensor, count: int) -> list[Tensor]:
        """``count`` points [B,H,K] of x [B,H,T,K]: those of the segments that begin at floor(i T / count)."""
        time = x.shape[2]
        starts = [i * time // count for i in range(count)]
        return [
            x[:, :, a:b].mean(2) if self.pooled else x[:, :, a] for a, b in zip(starts, [*starts[1:], time])
        ]

    @classmethod
    def examples(cls) -> tuple[GaussianNystrom, ...]:
        return (
            cls(landmarks=4, ridge=0.3),
            cls(landmarks=3, landmarks_of="queries", pooled=True, inverse="newton", steps=8, ridge=0.2),
        )


def _gaussian(a: Tensor, b: Tensor) -> Tensor:
    """exp(-||a_i - b_j||^2 / 2) for points [B,H,N,K] and [B,H,M,K]."""
    return torch.exp(-0.5 * (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1))
