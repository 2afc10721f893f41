from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LowRankEraseKey(Gate):
    """erase_key = a * read_key, a = sigmoid(W2 W1 x_erase + bias) per head and channel (RWKV-7, arXiv
    2503.14456).

    a, the in-context learning rate of a channel, is the stream ``learning_rate`` for others. W1 leads to
    ``rank`` channels, the key size if None.
    """

    rank: int | None = None

    reads: ClassVar[tuple[str, ...]] = ("read_key", "x_erase")
    makes: ClassVar[tuple[str, ...]] = ("erase_key", "learning_rate")
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank, channels = self.rank or sizes.key_size, (sizes.heads, sizes.key_size)
        return {
            "down": Parameter((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((*channels, rank), fan_in(rank)),
            "bias": Parameter(channels, constant(-0.19)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btr,hkr->bthk", streams["x_erase"] @ params["down"].mT, params["up"])
        rate = torch.sigmoid(wide(logits) + wide(params["bias"]))
        return {"erase_key": rate * streams["read_key"], "learning_rate": rate}

    @classmethod
    def examples(cls) -> tuple[LowRankEraseKey, ...]:
        return (cls(), cls(rank=2))
