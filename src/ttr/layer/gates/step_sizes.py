"""Gates that compute step sizes in a form specific to one architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Matrix, Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Params, Streams, linear, newest_pair
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class TTTStepSize(Gate):
    """step_size = base sigmoid(W x + bias) / K per head, for keys of size K (TTT, arXiv 2407.04620: base 1
    for a matrix, 0.1 for an MLP)."""

    base: float = 1.0

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Matrix((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), constant(0.0)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        gate = torch.sigmoid(wide(linear(streams["x"], params["weight"])) + wide(params["bias"]))
        return {"step_size": self.base * gate / max(streams["k"].shape[-1], 1)}

    @classmethod
    def examples(cls) -> tuple[TTTStepSize, ...]:
        return (cls(), cls(base=0.1))


@dataclass(frozen=True)
class ChunkAverage(Gate):
    """read_step = max(1 / (p + 1) + offset_p, 0) at position p = 0, 1, ... of a chunk of ``chunk`` tokens
    (TTT, arXiv 2407.04620).

    With offset 0 the steps of the chunk so far are averaged, not summed. The offset is learned.
    """

    chunk: int = 16

    makes: ClassVar[tuple[str, ...]] = ("read_step",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"offset": Parameter((self.chunk, sizes.heads), constant(0.0))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        offset = wide(params["offset"])
        average = 1 / torch.arange(1, self.chunk + 1, dtype=offset.dtype, device=offset.device)
        return {"read_step": (average[:, None] + offset).clamp(min=0)[streams["position"] % self.chunk]}

    @classmethod
    def examples(cls) -> tuple[ChunkAverage, ...]:
        return (cls(chunk=3),)


@dataclass(frozen=True)
class TanhStepSize(Gate):
    """step_size = 1 + tanh(W x / sqrt(d_model)), one per head and pair (Momentum DeltaNet, arXiv
    2605.05838)."""

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Matrix((*sizes.per_pair, sizes.heads, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = wide(linear(streams["x"], params["weight"]))
        return {"step_size": 1 + torch.tanh(logits / math.sqrt(streams["x"].shape[-1]))}

    @classmethod
    def examples(cls) -> tuple[TanhStepSize, ...]:
        return (cls(),)


@dataclass(frozen=True)
class LonghornStepSize(Gate):
    """step_size = sigmoid(W2 W1 v + bias) per head, from the values of all heads that the memory gets
    (Longhorn, arXiv 2407.14207).

    ``rank`` None means ceil(d_model / 16).
    """

    rank: int | None = None

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"
    after_qkv: ClassVar[bool] = True

    def head_groups(self, sizes: Sizes) -> int:
        return 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1:
            raise ValueError(
                "LonghornStepSize computes one step from the values of a token. Use one pair per token."
            )
        rank = self.rank or math.ceil(sizes.d_model / 16)
        values = (sizes.value_heads, sizes.value_size)
        return {
            "down": Parameter((rank, *values), fan_in(values[0] * values[1])),
            "up": Matrix((sizes.heads, rank), fan_in(rank)),
            "bias": Parameter((sizes.heads,), constant(0.0)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(
            torch.einsum("bthv,rhv->btr", newest_pair(streams["v"]), params["down"]), params["up"]
        )
        return {"step_size": torch.sigmoid(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LonghornStepSize, ...]:
        return (cls(), cls(rank=2))
