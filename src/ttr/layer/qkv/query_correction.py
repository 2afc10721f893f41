from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.part import QKVTransform, Streams, newest_pair
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class QueryCorrection(QKVTransform):
    """q <- q - d k per head, with a learned d that begins at ``start``: Comba's output correction (arXiv
    2506.02475).

    The read-out S^T (q - d k) is that of q less d times what the memory says about the newest key.
    """

    start: float = 1.0

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((max(sizes.query_heads, sizes.key_heads),), constant(self.start))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        heads = len(params["strength"])
        return {
            "q": repeat_heads(streams["q"], heads)
            - params["strength"][:, None] * repeat_heads(newest_pair(streams["k"]), heads)
        }

    @classmethod
    def examples(cls) -> tuple[QueryCorrection, ...]:
        return (cls(), cls(start=0.02))
