from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.axes import axis_params
from ttr.component import Component
from ttr.problem import Function, Pair, Problem, Solver, Weights, Worked
from ttr.solvers._training import expand, loss_gradient, only_matrices
from ttr.solvers.losses.inner_product import InnerProduct
from ttr.solvers.losses.squared_error import SquaredError
from ttr.solvers.maps.newton_schulz import NewtonSchulz


@dataclass(frozen=True)
class ChunkDescent(Solver):
    """One step per chunk of ``chunk`` tokens, counted from the state's first, read before it is taken (LaCT,
    arXiv 2505.23884).

    At the end of a chunk, for every matrix p of the function with a step of its own,

        G_p = -sum_j step_jp grad_p l(m_W(k_j), v_j)      U <- G + mean_j(momentum_j) U      W <- normalise(W
            + NS(U))

    and every token of the chunk reads the W from before: y_t = m_W(q_t).

    Args:
        loss: what is descended.
        momentum: whether the last chunk's U counts on, by the mean of the control over the chunk.
        orthogonalise: what is done to U before it is added.
        renormalise: whether the weights of every output of W are brought back to the length they started
            with.

    Raises:
        ValueError: if the chunk is below 1.
    """

    chunk: int = 2048
    loss: Component = field(default_factory=InnerProduct)
    momentum: bool = False
    orthogonalise: Component | None = None
    renormalise: bool = True
    eps: float = 1e-5

    keeps: ClassVar[str] = "chunked-network"
    folds: ClassVar[bool] = True
    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    gradient_at: ClassVar[Literal["old"]] = "old"
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"A chunk of {self.chunk} tokens learns nothing. Use 1 or more.")

    @property
    def condition(self) -> float:
        return 1.0 if self.orthogonalise is None else self.orthogonalise.condition

    @property
    def copies(self) -> tuple[str, ...]:
        return ("gradient", "momentum") if self.momentum else ("gradient",)

    def state(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        return {"momentum_sum": ()} if self.momentum else {}

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTHP"} | ({"momentum": "BTH"} if self.momentum else {}) | self.loss.controls()

    def formulas(self) -> dict[str, str]:
        gradient = f"sum_j b_j grad l(m_W(k_j), v_j) over the {self.chunk} tokens j of a chunk"
        change = f"U <- mean_j(momentum_j) U - {gradient}" if self.momentum else f"U = -{gradient}"
        step = f"W <- W + {'NS(U)' if self.orthogonalise else 'U'}"
        kept = ", every column scaled to its first length" if self.renormalise else ""
        meaning = (
            ", b = w_t step_size, one for every "
            f"matrix{f', {self.orthogonalise.formula}' if self.orthogonalise else ''}"
        )
        told = (
            "Every chunk takes one step along its summed gradients from weights that are a chunk old. "
            f"{self.loss.note}"
        )
        return {
            "objective": f"l(m, v) = {self.loss.formula}",
            "update": f"{change}, {step}{kept}{meaning}",
            "read-out": "y_t = m(q_t) with the weights W from before the chunk",
            "order": "all tokens of a chunk read, then the chunk is written at its end",
            "parallel form": (
                "a product with the same weights for all queries of a chunk, and for all its gradients"
            ),
            "approximation": told.strip(),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        w, f = type(weights).__name__, type(function).__name__
        if weights.folds or function.folds:
            return (
                f"{w} and {f} must leave the update to the solver, and one is a recurrence of its own. "
                "Use Uniform, and GatedMlp or Mlp."
            )
        if weights.retention is not None:
            return (
                f"ChunkDescent moves the weights once per chunk, and {w} shrinks them at every token. "
                "Use Uniform, or GradientDescent."
            )
        if self.renormalise and not function.learned_start:
            return (
                f"ChunkDescent brings weights back to their first length, which is 0 for {f}. Use "
                "GatedMlp or Mlp, or renormalise=False."
            )
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        names = function.memory(pair.key.shape[-1], pair.value.shape[-1])
        weights, once = {name: memory[name] for name in names}, pair.value.new_ones(pair.value.shape[:-1])
        gradient = loss_gradient(
            function, params, self.loss, weights, [(pair.key, pair.value, once)], pair.controls
        )
        groups = [name for name in names if not name.endswith("_bias")]
        ends = (pair.position + 1) % self.chunk == 0
        momentum_sum = memory["momentum_sum"] + pair.controls["momentum"] if self.momentum else None
        new = (
            {"momentum_sum": torch.where(expand(ends, momentum_sum), 0.0, momentum_sum)}
            if self.momentum
            else {}
        )
        first = function.initial(axis_params(params, "function")) if self.renormalise else {}
        for name, weight in weights.items():
            step = pair.controls["step_size"][..., groups.index(name.removesuffix("_bias"))]
            total = memory[f"gradient.{name}"] - expand(step, weight) * gradient[name]
            update = total
            if self.momentum:
                update = total + expand(momentum_sum / self.chunk, weight) * memory[f"momentum.{name}"]
                new[f"momentum.{name}"] = torch.where(
                    expand(ends, weight), update, memory[f"momentum.{name}"]
                )
            moved = weight + only_matrices(self.orthogonalise, name, update)
            if name in groups and self.renormalise:
                moved = (
                    moved
                    / (moved.norm(dim=-2, keepdim=True) + self.eps)
                    * first[name].norm(dim=-2, keepdim=True)
                )
            new[name] = torch.where(expand(ends, weight), moved, weight)
            new[f"gradient.{name}"] = torch.where(expand(ends, weight), 0.0, total)
        return new

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        weights = {name: before[name] for name in function.memory(pair.key.shape[-1], pair.value.shape[-1])}
        return function.predict(weights, query, axis_params(params, "function"))

    @classmethod
    def examples(cls) -> tuple[ChunkDescent, ...]:
        soft = NewtonSchulz(((2.0, -1.5, 0.5), (1.5, -0.5, 0.25)), eps=0.1)
        return (
            cls(chunk=4, momentum=True, orthogonalise=soft),
            cls(chunk=3, loss=SquaredError(), renormalise=False),
        )

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.gated_mlp import GatedMlp
        from ttr.functions.mlp import Mlp
        from ttr.weights.uniform import Uniform

        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2], [3, 0.5], [-2, 0.5]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5], [-1.5, 2.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2], [0.5, 3, -4]],
                # A network of one matrix W, squared error, chunks of 2, steps 0.5, 0.2, 0.6, 0.3. Tokens 1
                # and 2 read the start, q W. Then G = 0.5 k_1 (v_1 - k_1 W)^T + 0.2 k_2 (v_2 - k_2 W)^T =
                # [-0.6325,
                # 0.06875, 0.925],
                # [0.59, -6.3875, 4.025] is orthogonalised by two iterations to
                # [-0.24170661993, 0.094104529629, 0.301051073434],
                # [0.10439198791, -1.057457691368, 0.655955816697] and added; tokens 3 and 4 read the sum.
                [
                    [3.1, 4, 2.5],
                    [-0.1, 3.75, -7],
                    [-1.47963728579, -0.963032352449, 0.838613903324],
                    [1.17707613417, -0.246415256798, 6.98113112865],
                    [0.705536813712, -0.754135035663, -3.28331029057],
                ],
            )
        )
        step = torch.tensor([0.5, 0.2, 0.6, 0.3, 0.4], dtype=torch.float64)[None, :, None, None]
        start = {"function.w1": torch.tensor([[[0.5, -0.25, 2], [0.7, 1.5, -0.5]]], dtype=torch.float64)}
        soft = NewtonSchulz(((2.0, -1.5, 0.5), (1.5, -0.5, 0.25)), eps=0.1)
        plain = cls(chunk=2, loss=SquaredError(), orthogonalise=soft, renormalise=False)
        return (
            Worked(
                Problem(Uniform(), Mlp(depth=1, residual=False, start=0.5), plain),
                q,
                k,
                v,
                y,
                {"step_size": step},
                start,
            ),
            *GatedMlp.worked(),
        )  # with momentum and lengths kept
