from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ttr.component import Parameter, constant
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class BoundedForgetGate(Gate):
    """log_decay = log(b + (1 - b) sigmoid(k)) per key channel, k as it leaves the projection (HGRN2, arXiv
    2404.07904).

    The bound b = sigmoid(bound) is learned per channel and starts at layer / layers, so that higher layers
    remember longer; the lowest layer has none.
    """

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1 or sizes.key_heads != sizes.heads:
            raise ValueError(
                "BoundedForgetGate makes the retention of a head from its key and needs one "
                "for each. "
                f"Use key_heads = {sizes.heads} and one pair per token."
            )
        if not sizes.layer:
            return {}
        return {
            "bound": Parameter(
                (sizes.heads, sizes.key_size), constant(math.log(sizes.layer / (sizes.layers - sizes.layer)))
            )
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        log_gate = logsigmoid(wide(streams["k"]))
        if "bound" in params:
            bound = wide(params["bound"])
            log_gate = torch.logaddexp(logsigmoid(bound), logsigmoid(-bound) + log_gate)
        return {"log_decay": log_gate}

    @classmethod
    def examples(cls) -> tuple[BoundedForgetGate, ...]:
        return (cls(),)
