"""A gate: a part that computes a control from the layer's input."""

COMPONENT = '''from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

${ttr}from ttr.component import Matrix, Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class $Name(Gate):
    """log_decay = -most sigmoid(W x): no decay is below exp(-most).

    Say here what is new about it and where it comes from.
    """

    most: float = 0.5

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise ValueError(f"$Name(most={self.most}) has no decay. Use a number above 0.")

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Matrix((sizes.heads, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": -self.most * wide(linear(streams["x"], params["weight"])).sigmoid()}

    @classmethod
    def examples(cls) -> tuple[$Name, ...]:
        return (cls(), cls(most=0.3))
'''

IMPORTS = ""

CASE = """\
    # x = (2, 3): 0.5 * 2 + (ln 3 - 1) = ln 3, whose sigmoid is 3 / 4, and that of -ln 3 is 1 / 4.
    # Times -0.4 they are -0.3 and -0.1.
    log3 = 1.0986122886681098
    part = $Name(most=0.4)
    streams = {"x": torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)}
    row = torch.tensor([0.5, (log3 - 1) / 3], dtype=torch.float64)
    params = {"weight": torch.stack([row, -row])}
    expected = {"log_decay": torch.tensor([[[-0.3, -0.1]]], dtype=torch.float64)}
"""

MEMORY = """ttr.layer.Architecture(
    ttr.Problem(ttr.weights.Geometric(), ttr.functions.Linear(), ttr.solvers.OneStep()), gates=($Name(),)
)"""
