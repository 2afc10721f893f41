from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding, fan_in, wide


@dataclass(frozen=True)
class LowRankDecay(Controls):
    """log_decay = log sigmoid(W2 W1 x + bias) / ``temperature`` per head and key channel (GLA, arXiv
    2312.06635)."""

    rank: int = 16
    temperature: float = 16.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        channels = (sizes.heads, sizes.key_size)
        return {
            "down": Parameter((self.rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((*channels, self.rank), fan_in(self.rank)),
            "bias": Parameter(channels, constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btr,hkr->bthk", streams["x"] @ params["down"].mT, params["up"])
        return {
            "log_decay": torch.nn.functional.logsigmoid(wide(logits) + wide(params["bias"]))
            / self.temperature
        }

    @classmethod
    def examples(cls) -> tuple[LowRankDecay, ...]:
        return (cls(), cls(rank=2, temperature=4.0))

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (ln 3 - 0.75, 1.5): logits ln 3 and 0, sigmoids
        # 3/4 and 1/2; over 4.
        params = {
            "down": torch.tensor([[1.5]]),
            "up": torch.tensor([[[0.25], [-0.5]]]),
            "bias": torch.tensor([[1.0986122886681098 - 0.75, 1.5]]),
        }
        expected = torch.tensor([-0.2876820724517809 / 4, -0.6931471805599453 / 4]).reshape(1, 1, 1, 2)
        return WorkedSurrounding(
            cls(rank=1, temperature=4.0), {"x": torch.tensor([[[2.0]]])}, {"log_decay": expected}, params
        )
