from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.component import Component, axis_params
from ttr.forms import ChunkedNetwork
from ttr.problem import Function, Pair, Solver, Weights
from ttr.solvers._training import expand, loss_gradient, only_matrices
from ttr.solvers.losses.inner_product import InnerProduct
from ttr.solvers.losses.squared_error import SquaredError
from ttr.solvers.maps.newton_schulz import NewtonSchulz


@dataclass(frozen=True)
class ChunkDescent(Solver):
    """One step per chunk of ``chunk`` tokens, counted from the state's first; tokens read the weights from
    before the step (LaCT, arXiv 2505.23884).

    At the end of a chunk, for every matrix p of the function with a step of its own,

        G_p = -sum_j step_jp grad_p l(m_W(k_j), v_j)
        U <- G + mean_j(momentum_j) U
        W <- normalise(W + NS(U))

    and every token of the chunk reads with the W from before the step: y_t = m_W(q_t).

    Args:
        loss: the loss of a pair.
        momentum: whether U accumulates over chunks, decayed by the mean of the control over the chunk.
        orthogonalise: a map applied to U before it is added.
        renormalise: whether every column of W is rescaled to its initial norm.

    Raises:
        ValueError: if the chunk is below 1.
    """

    chunk: int = 2048
    loss: Component = field(default_factory=InnerProduct)
    momentum: bool = False
    orthogonalise: Component | None = None
    renormalise: bool = True
    eps: float = 1e-5

    form: ClassVar[type] = ChunkedNetwork
    folds: ClassVar[bool] = True
    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    gradient_at: ClassVar[Literal["old"]] = "old"

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"A chunk of {self.chunk} tokens learns nothing. Use 1 or more.")

    def limits(self) -> dict[str, float]:
        return {} if self.orthogonalise is None else {"condition": self.orthogonalise.condition}

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        """With "gradient.NAME" and "momentum.NAME" beside every parameter NAME of the function."""
        copies = ("gradient",) + ("momentum",) * self.momentum
        beside = {f"{copy}.{name}": shape for copy in copies for name, shape in memory.items()}
        return beside | ({"momentum_sum": ()} if self.momentum else {})

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTHP"} | ({"momentum": "BTH"} if self.momentum else {}) | self.loss.controls()

    def formulas(self) -> dict[str, str]:
        gradient = f"sum_j b_j grad l(m_W(k_j), v_j) over the {self.chunk} tokens j of a chunk"
        change = f"U <- mean_j(momentum_j) U - {gradient}" if self.momentum else f"U = -{gradient}"
        step = f"W <- W + {'NS(U)' if self.orthogonalise else 'U'}"
        norms = ", every column rescaled to its initial norm" if self.renormalise else ""
        meaning = (
            ", b = w_t step_size, one for every "
            f"matrix{f', {self.orthogonalise.formula}' if self.orthogonalise else ''}"
        )
        approximation = (
            "Every chunk takes one step along its summed gradients at the weights of its start. "
            f"{self.loss.note}"
        )
        return {
            "objective": f"l(m, v) = {self.loss.formula}",
            "update": f"{change}, {step}{norms}{meaning}",
            "read-out": "y_t = m(q_t) with the weights W from before the chunk",
            "order": "all tokens of a chunk read, then the chunk is written at its end",
            "parallel form": (
                "a product with the same weights for all queries of a chunk, and for all its gradients"
            ),
            "approximation": approximation.strip(),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        w, f = type(weights).__name__, type(function).__name__
        if weights.folds or function.folds:
            return (
                f"The solver defines the update, and {w} or {f} is a recurrence of its own. "
                "Use Uniform, and GatedMlp or Mlp."
            )
        if weights.retention is not None:
            return (
                f"ChunkDescent moves the weights once per chunk, and {w} shrinks them at every token. "
                "Use Uniform, or GradientDescent."
            )
        if self.renormalise and not function.learned_start:
            return (
                f"ChunkDescent rescales weights to their initial norm, which is 0 for {f}. Use "
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
