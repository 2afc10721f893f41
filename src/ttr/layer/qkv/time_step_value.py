from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.layer.part import QKVTransform, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class TimeStepValue(QKVTransform):
    """v = dt x per head, with the dt that also sets the decay: Euler's rule for a state space (Mamba-2, arXiv
    2405.21060).

    The value before, x, is the stream ``input`` for others.
    """

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("input",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.value_heads != sizes.heads:
            raise ValueError(
                "TimeStepValue gives every head a step of its own and needs a value for each. "
                f"Use value_heads = {sizes.heads}."
            )
        return {}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        v, time_step = streams["v"], streams["time_step"]
        time_step = time_step if v.ndim == 4 else time_step[:, :, None]  # all pairs of a token share it
        return {"v": (v * time_step[..., None]).to(v.dtype), "input": v}

    @classmethod
    def examples(cls) -> tuple[TimeStepValue, ...]:
        return (cls(),)
