from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.component import Component, axis_params
from ttr.forms import Network
from ttr.problem import Function, Pair, Solver, Weights
from ttr.solvers._training import expand, loss_gradient, only_matrices
from ttr.solvers.losses.huber import Huber
from ttr.solvers.losses.power_error import PowerError
from ttr.solvers.losses.squared_error import SquaredError
from ttr.solvers.maps.newton_schulz import NewtonSchulz
from ttr.solvers.maps.power_norm import PowerNorm


@dataclass(frozen=True)
class GradientDescent(Solver):
    """One step per token, along gradients at the weights of the last chunk boundary: mini-batch gradient
    descent.

    With W_b the weights after the last full chunk of ``chunk`` tokens, counted from the state's first, and
    a_t the decay,

        Z_t = momentum_t Z_{t-1} - step_t grad l(m_{W_b}(k_t), v_t)
        W_t = a_t W_{t-1} + Z_t
        y_t = m_{W_t}(q_t)

    (Titans, arXiv 2501.00663; without ``momentum`` Z_t is the step alone). The gradient is thus taken at old,
    not at decayed weights.

    Args:
        loss: the loss of a pair.
        read_step: token t reads with W_b + e_t (W_t - W_b), where e_t is the control ``read_step``; the last
            token of a chunk also writes these weights as the next W_b (TTT, arXiv 2407.04620).
        window: the gradient is that of the newest ``window`` pairs together, each with its own step (ATLAS,
            2505.23735).
        orthogonalise: a map applied to Z_t before it is added to the weights.
        mirror: the weights are this map of the accumulator A_t = a_t A_{t-1} + Z_t, which replaces W_t
            (MIRAS, 2504.13173).

    Raises:
        ValueError: if chunk or window is below 1, or a loss with controls of its own is used with a window.
    """

    chunk: int = 1
    loss: Component = field(default_factory=SquaredError)
    momentum: bool = False
    read_step: bool = False
    window: int = 1
    orthogonalise: Component | None = None
    mirror: Component | None = None

    form: ClassVar[type] = Network
    folds: ClassVar[bool] = True
    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    gradient_at: ClassVar[Literal["old"]] = "old"

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.window < 1:
            raise ValueError(
                f"A chunk of {self.chunk} and a window of {self.window} tokens learn nothing. "
                "Use 1 or more for both."
            )
        if self.window > 1 and self.loss.controls():
            raise ValueError(
                f"{self.loss!r} has a control, which is not stored for the pairs of a window. Use "
                "window=1, or another loss."
            )

    def limits(self) -> dict[str, float]:
        return {} if self.orthogonalise is None else {"condition": self.orthogonalise.condition}

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        """With "change.NAME" and "momentum.NAME" beside every parameter NAME of the function."""
        copies = ("change",) * (self.chunk > 1) + ("momentum",) * self.momentum
        beside = {f"{copy}.{name}": shape for copy in copies for name, shape in memory.items()}
        older = self.window - 1
        if not older:
            return beside
        return beside | {
            "recent_keys": (older, feature_size),
            "recent_values": (older, value_size),
            "recent_steps": (older,),
        }

    def controls(self) -> dict[str, str]:
        extra = {
            name: "BTH" for name, used in (("momentum", self.momentum), ("read_step", self.read_step)) if used
        }
        return {"step_size": "BTH"} | extra | self.loss.controls()

    def formulas(self) -> dict[str, str]:
        gradient = (
            "b_t grad l(m_{W_b}(k_t), v_t)"
            if self.window == 1
            else (f"sum_{{t-{self.window}<i<=t}} b_i grad l(m_{{W_b}}(k_i), v_i)")
        )
        force = f"momentum_t Z_{{t-1}} - {gradient}" if self.momentum else f"-{gradient}"
        added, name = "NS(Z_t)" if self.orthogonalise else "Z_t", "A" if self.mirror else "W"
        maps = "".join(f", {change.formula}" for change in (self.orthogonalise, self.mirror) if change)
        scaled = f"{name}_b + read_step_t ({name}_t - {name}_b)" if self.read_step else f"{name}_t"
        boundary = f"{name}_b <- {scaled} after every {self.chunk} tokens"
        boundary = "W_b = W_{t-1}" if (self.chunk, name, self.read_step) == (1, "W", False) else boundary
        approximations = (
            [
                f"The gradients of {self.chunk} tokens are taken at the weights of the chunk's start, not "
                "at the newest."
            ]
            if self.chunk > 1
            else []
        )
        approximations += [self.loss.note] if self.loss.note else []
        approximations += (
            ["The step is orthogonalised, so it does not follow the gradient."] if self.orthogonalise else []
        )
        approximations += (
            ["A map of the accumulator takes the place of the squared norm that keeps weights small."]
            if self.mirror
            else []
        )
        return {
            "objective": f"l(m, v) = {self.loss.formula}",
            "update": (
                f"Z_t = {force}, {name}_t = D_t {name}_{{t-1}} + {added}, {boundary}, b_t = w_t "
                f"step_size_t{maps}"
            ),
            "order": "the gradient at the old weights, then decay and step, then read"
            + ("; read_step scales the change since the boundary" if self.read_step else ""),
            "parallel form": "the gradients of a chunk at W_b together, "
            + (
                "then the weights token by token"
                if maps
                else "added up at every read-out with products of decays and momenta"
            ),
        } | ({"approximation": " ".join(approximations)} if approximations else {})

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        w, f = type(weights).__name__, type(function).__name__
        if weights.folds or function.folds:
            return (
                f"The solver defines the update, and {w} or {f} is a recurrence of its own. "
                "Use Geometric, and Linear or Mlp."
            )
        if weights.retention == "channel":
            return (
                f"The weights of a network decay at one rate, and {w} has one per key channel. "
                "Use Geometric(per='head'), or DeltaRule."
            )
        if self.mirror is not None and not function.learned_start:
            return (
                f"{self.mirror!r} needs a learned start, and {f} starts at 0. Use Mlp or "
                "GatedMlp, or mirror=None."
            )
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        names = function.memory(pair.key.shape[-1], pair.value.shape[-1])
        pairs, recent = self._recent(memory, pair)
        gradient = loss_gradient(
            function,
            params,
            self.loss,
            self._weights({name: memory[name] for name in names}),
            pairs,
            pair.controls,
        )
        ends = (pair.position + 1) % self.chunk == 0
        scale = pair.controls.get("read_step", torch.ones_like(pair.controls["step_size"]))
        new = {}
        for name in names:
            update = -gradient[name]
            if self.momentum:
                update = expand(pair.controls["momentum"], update) * memory[f"momentum.{name}"] + update
                new[f"momentum.{name}"] = update
            start = memory[name]
            now = start + memory.get(f"change.{name}", 0.0)
            if pair.log_decay is not None:
                now = expand(pair.log_decay.exp(), now) * now
            change = now + only_matrices(self.orthogonalise, name, update) - start
            new[name] = torch.where(expand(ends, start), start + expand(scale, start) * change, start)
            if self.chunk > 1:
                new[f"change.{name}"] = torch.where(expand(ends, start), 0.0, change)
        return new | recent

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        weights = {}
        for name in function.memory(pair.key.shape[-1], pair.value.shape[-1]):
            change = after.get(f"change.{name}", torch.zeros_like(after[name]))
            weights[name] = (
                after[name] + expand(pair.controls["read_step"], change) * change
                if self.read_step
                else after[name] + change
            )
        return function.predict(self._weights(weights), query, axis_params(params, "function"))

    def _weights(self, accumulated: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: only_matrices(self.mirror, name, x) for name, x in accumulated.items()}

    def _recent(
        self, memory: Mapping[str, Tensor], pair: Pair
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], dict[str, Tensor]]:
        """The pairs (key, value, step) of the window, and the buffers of the newest pairs for the next
        token."""
        own = {
            "recent_keys": pair.key,
            "recent_values": pair.value,
            "recent_steps": pair.controls["step_size"],
        }
        if self.window == 1:
            return [tuple(own.values())], {}
        held = {name: torch.cat([memory[name], x[:, :, None]], dim=2) for name, x in own.items()}
        return list(zip(*(x.unbind(2) for x in held.values()))), {
            name: x[:, :, 1:] for name, x in held.items()
        }

    @classmethod
    def examples(cls) -> tuple[GradientDescent, ...]:
        soft = NewtonSchulz(((2.0, -1.5, 0.5), (1.5, -0.5, 0.25)), eps=0.1)
        return (
            cls(),
            cls(chunk=4, loss=Huber(), momentum=True, read_step=True),
            cls(chunk=3, window=3, momentum=True, orthogonalise=soft),
            cls(chunk=2, loss=PowerError(), mirror=PowerNorm(eps=0.5)),
        )
