from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.surroundings import Keys, Streams, WorkedSurrounding


@dataclass(frozen=True)
class SharedKey(Keys):
    """k = q: one projection makes queries and keys, and there is none for the keys alone (SOFT, arXiv
    2110.11945)."""

    replaces: ClassVar[tuple[str, ...]] = ("k",)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"k": streams["q"]}

    @classmethod
    def examples(cls) -> tuple[SharedKey, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        q = torch.tensor([2.0, -3.0]).reshape(1, 1, 1, 2)
        return WorkedSurrounding(cls(), {"q": q, "k": torch.full((1, 1, 1, 2), 9.0)}, {"k": q})
