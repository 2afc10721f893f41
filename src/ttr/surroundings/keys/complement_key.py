from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.surroundings import Keys, Streams, WorkedSurrounding


@dataclass(frozen=True)
class ComplementKey(Keys):
    """k = 1 - exp(log_decay) per channel: what is forgotten makes room for what is written (HGRN2, arXiv 2404.07904)."""

    reads: ClassVar[tuple[str, ...]] = ("log_decay",)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        k, log_decay = streams["k"], streams["log_decay"]
        group = log_decay.shape[2] // k.shape[-2]  # a key head serves neighbouring heads of the memory, which share its gate
        return {"k": -torch.expm1(log_decay[:, :, ::group]).to(k.dtype)}

    @classmethod
    def examples(cls) -> tuple[ComplementKey, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # 1 - 1/4 and 1 - 2/5; both heads of the memory share the one key head.
        log_decay = torch.log(torch.tensor([0.25, 0.4])).expand(1, 1, 2, 2)
        return WorkedSurrounding(cls(), {"k": torch.full((1, 1, 1, 2), 9.0), "log_decay": log_decay}, {"k": torch.tensor([0.75, 0.6]).reshape(1, 1, 1, 2)})
