from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.layer.part import Gate, Streams
from ttr.operators import wide


@dataclass(frozen=True)
class ConstantRidge(Gate):
    """ridge = ``value``, for all heads and channels (Intention, arXiv 2305.10203)."""

    value: float = 1.0

    makes: ClassVar[tuple[str, ...]] = ("ridge",)
    axes: ClassVar[str] = "HF"

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError(
                f"ConstantRidge(value={self.value}) leaves the first fits without a unique "
                "solution. Use a value above 0."
            )

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"ridge": wide(streams["x"]).new_full((), self.value)}

    @classmethod
    def examples(cls) -> tuple[ConstantRidge, ...]:
        return (cls(), cls(value=0.3))
