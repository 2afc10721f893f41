"""Gates computed from the length dt of a time step, which another part computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.layer.part import Gate, Params, Streams


@dataclass(frozen=True)
class TimeStepDecay(Gate):
    """log_decay = -dt per head, where dt is the stream ``time_step`` of a qkv transform."""

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"
    after_qkv: ClassVar[bool] = True

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": -streams["time_step"]}

    @classmethod
    def examples(cls) -> tuple[TimeStepDecay, ...]:
        return (cls(),)


@dataclass(frozen=True)
class TimeStepImportance(Gate):
    """log_importance = log dt, with the dt that also sets the decay: the length of a time step (Mamba-3,
    arXiv 2603.15569)."""

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("log_importance",)
    axes: ClassVar[str] = "BTH"

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        time_step = streams["time_step"]
        return {"log_importance": time_step.clamp(min=torch.finfo(time_step.dtype).tiny).log()}

    @classmethod
    def examples(cls) -> tuple[TimeStepImportance, ...]:
        return (cls(),)
