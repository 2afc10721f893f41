from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.part import Params, QKVTransform, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class TokenShift(QKVTransform):
    """x_t + m * (x_{t-1} - x_t), channel by channel with a learned m for each of the streams it makes,
    "x_NAME" for every name in ``of`` (RWKV, arXiv 2305.13048; RWKV-7, 2503.14456): what q, k, v and the gates
    are projected from. Before the first token x is 0.

    The shares m start at 1 - (channel / d_model)^p with p from 0.2 to 0.9, larger in earlier layers, as in
    RWKV.
    """

    of: tuple[str, ...] = ("q", "k", "v")

    streams: ClassVar[tuple[str, ...]] = ("x",)
    past: ClassVar[int] = 1
    of_input: ClassVar[bool] = True

    @property
    def makes(self) -> tuple[str, ...]:
        return tuple(f"x_{name}" for name in self.of)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        early = 1 - sizes.layer / sizes.layers

        def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            powers = torch.linspace(0.2, 0.9, max(len(self.of), 2))[: len(self.of), None]
            return 1 - (torch.arange(shape[1]) / shape[1]) ** (powers * early)

        return {"share": Parameter((len(self.of), sizes.d_model), init)}

    def transparent(self, sizes: Sizes) -> dict[str, Tensor]:
        """Shares of 0: nothing of the token before."""
        return {"share": torch.zeros(len(self.of), sizes.d_model)}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        before, x = streams["x"][:, :-1], streams["x"][:, 1:]
        return {name: x + params["share"][number] * (before - x) for number, name in enumerate(self.makes)}

    @classmethod
    def examples(cls) -> tuple[TokenShift, ...]:
        return (cls(), cls(of=("gate",)))
