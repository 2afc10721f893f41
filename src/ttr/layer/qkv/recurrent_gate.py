from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ttr.component import Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Params, QKVTransform, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide

STEEPEST = 1000.0
"""Bound on the derivative of the square root, which is infinite at 0."""


@dataclass(frozen=True)
class RecurrentGate(QKVTransform):
    """v = sqrt(1 - a^2) i v with the gates of a real-gated linear recurrent unit (RG-LRU, arXiv 2402.19427).

    The input gate i and the recurrence gate r are sigmoids of linear maps of v within blocks of ``block``
    heads, or a single block if there are fewer heads. The decay a = exp(-dt) has dt = sharpness r
    softplus(p), the stream ``time_step``; p starts such that a^(1/(sharpness r)) is between 0.9 and 0.999.
    The first token of a sequence is written without the factor sqrt(1 - a^2).
    """

    block: int = 256
    sharpness: float = 8.0

    makes: ClassVar[tuple[str, ...]] = ("time_step",)

    def head_groups(self, sizes: Sizes) -> int:
        return max(sizes.heads // self.block, 1)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        block = min(self.block, sizes.heads)
        if sizes.pairs > 1 or sizes.value_heads != sizes.heads or sizes.heads % block:
            raise ValueError(
                f"RecurrentGate gates the value of every head in blocks of {block}. "
                f"Use one pair per token, value_heads = {sizes.heads}, and a multiple of "
                f"{block} heads."
            )
        blocks, inner = sizes.heads // block, block * sizes.value_size

        def start(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            log_decay = 0.5 * torch.log(0.9**2 + (0.999**2 - 0.9**2) * torch.rand(shape, generator=generator))
            return torch.log(torch.expm1(-log_decay))

        gates = {
            f"{gate}_weight": Parameter((blocks, inner, block), fan_in(inner))
            for gate in ("input", "recurrence")
        }
        gates |= {
            f"{gate}_bias": Parameter((blocks, block), constant(0.0)) for gate in ("input", "recurrence")
        }
        return gates | {"decay": Parameter((sizes.heads,), start)}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        v = wide(streams["v"])
        blocks = v.unflatten(2, (params["input_weight"].shape[0], -1)).flatten(3)

        def gate(name: str) -> Tensor:
            logits = torch.einsum("btni,nij->btnj", blocks, params[f"{name}_weight"].to(v)) + params[
                f"{name}_bias"
            ].to(v)
            return torch.sigmoid(logits).flatten(2)

        time_step = self.sharpness * gate("recurrence") * softplus(params["decay"].to(v))
        share = torch.where(
            streams["position"][..., None] == 0, 1.0, _bounded_sqrt(-torch.expm1(-2 * time_step))
        )
        return {"v": (v * (share * gate("input"))[..., None]).to(streams["v"].dtype), "time_step": time_step}

    @classmethod
    def examples(cls) -> tuple[RecurrentGate, ...]:
        return (cls(), cls(block=1, sharpness=4.0))


def _bounded_sqrt(x: Tensor) -> Tensor:
    """The square root, with a derivative of at most ``STEEPEST``."""
    root = x.detach().sqrt()
    return root + (x - x.detach()) / (2 * root).clamp(min=1 / STEEPEST)
