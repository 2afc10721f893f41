"""Additions to the read-out that bypass the memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.part import Output, Params, Streams, newest_pair
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class Skip(Output):
    """y + d * s per head, where s is the stream named ``of`` (v or a transform of it) and d is learned,
    initially 1 (Mamba, arXiv 2312.00752)."""

    of: str = "v"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((sizes.heads,), constant(1.0))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        y = streams["y"]
        return {
            "y": y + params["strength"][:, None] * repeat_heads(newest_pair(streams[self.of]), y.shape[-2])
        }

    @classmethod
    def examples(cls) -> tuple[Skip, ...]:
        return (cls(),)


@dataclass(frozen=True)
class CurrentTokenBonus(Output):
    """y + (q . (u * k)) v per head, with a learned u per key channel: an extra weight for the token's own
    pair (RWKV-7, arXiv 2503.14456)."""

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((sizes.heads, sizes.key_size), constant(-0.04))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        y = streams["y"]
        q, k, v = (
            repeat_heads(x, y.shape[-2])
            for x in (streams["q"], newest_pair(streams["k"]), newest_pair(streams["v"]))
        )
        return {"y": (y + (q * params["strength"] * k).sum(-1, keepdim=True) * v).to(y.dtype)}

    @classmethod
    def examples(cls) -> tuple[CurrentTokenBonus, ...]:
        return (cls(),)
