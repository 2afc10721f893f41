"""The length dt of a time step, and values scaled by it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ttr.component import Matrix, Parameter
from ttr.layer.initialisers import fan_in, time_step_bias
from ttr.layer.part import Params, QKVTransform, Streams, linear, newest_pair
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LowRankTimeStep(QKVTransform):
    """dt = softplus(W2 W1 v + bias) per head, from the token's values of all heads: the stream ``time_step``
    (Mamba, arXiv 2312.00752).

    ``rank`` None means ceil(d_model / 16); at initialisation dt is log-uniform in [0.001, 0.1] at v = 0. v
    itself is unchanged.
    """

    rank: int | None = None

    makes: ClassVar[tuple[str, ...]] = ("time_step",)

    def head_groups(self, sizes: Sizes) -> int:
        return 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank = self.rank or math.ceil(sizes.d_model / 16)
        values = (sizes.value_heads, sizes.value_size)
        return {
            "down": Parameter((rank, *values), fan_in(values[0] * values[1])),
            "up": Matrix((sizes.heads, rank), fan_in(rank)),
            "bias": Parameter((sizes.heads,), time_step_bias()),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(
            torch.einsum("bthv,rhv->btr", newest_pair(streams["v"]), params["down"]), params["up"]
        )
        return {"time_step": softplus(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LowRankTimeStep, ...]:
        return (cls(), cls(rank=2))


@dataclass(frozen=True)
class TimeStepValue(QKVTransform):
    """v = dt x per head, with the dt that also sets the decay: Euler's rule for a state space (Mamba-2, arXiv
    2405.21060).

    The unscaled value x is available to other parts as the stream ``input``.
    """

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("input",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.value_heads != sizes.heads:
            raise ValueError(
                "TimeStepValue scales the value of every head by its own step and needs one value per head. "
                f"Use value_heads = {sizes.heads}."
            )
        return {}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        v, time_step = streams["v"], streams["time_step"]
        time_step = time_step if v.ndim == 4 else time_step[:, :, None]  # all pairs of a token share it
        return {"v": (v * time_step[..., None]).to(v.dtype), "input": v}

    @classmethod
    def examples(cls) -> tuple[TimeStepValue, ...]:
        return (cls(),)
