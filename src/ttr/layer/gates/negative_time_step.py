from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.layer.part import Gate, Streams


@dataclass(frozen=True)
class NegativeTimeStep(Gate):
    """log_decay = -dt per head, for a dt that a step among the keys has made: the stream ``time_step``."""

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"
    after_qkv: ClassVar[bool] = True

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": -streams["time_step"]}

    @classmethod
    def examples(cls) -> tuple[NegativeTimeStep, ...]:
        return (cls(),)
