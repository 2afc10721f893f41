"""Output: from the memory's read-out to the layer's output."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ttr.layer.architecture import Architecture
from ttr.layer.sizes import Sizes
from ttr.layer.tensors import Tensors


class Output(nn.Module):
    """The parts behind the memory, then a linear map back to the layer's width."""

    def __init__(self, architecture: Architecture, sizes: Sizes) -> None:
        super().__init__()
        self.steps = architecture.output
        self.learned = nn.ModuleList(Tensors(step.parameters(sizes)) for step in self.steps)
        self.projection = nn.Linear(sizes.heads * sizes.value_size, sizes.d_model, bias=False)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(self, y: Float[Tensor, "B T H V"], streams: Mapping[str, Tensor]) -> Float[Tensor, "B T d"]:
        streams = {**streams, "y": y}
        for step, learned in zip(self.steps, self.learned, strict=True):
            streams |= step(learned.tensors(), streams)
        return self.projection(streams["y"].flatten(-2))
