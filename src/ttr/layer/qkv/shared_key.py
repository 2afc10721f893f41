from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.layer.part import QKVTransform, Streams


@dataclass(frozen=True)
class SharedKey(QKVTransform):
    """k = q: one projection makes queries and keys, and there is none for the keys alone (SOFT, arXiv
    2110.11945)."""

    replaces: ClassVar[tuple[str, ...]] = ("k",)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"k": streams["q"]}

    @classmethod
    def examples(cls) -> tuple[SharedKey, ...]:
        return (cls(),)
