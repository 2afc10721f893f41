"""The model that synthetic tasks train: layers with a residual each, between an embedding and an output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ttr.experiments.settings import Recipe
from ttr.layer.architecture import Architecture
from ttr.nn import Mixer
from ttr.tasks.task import LabelledSequences, Task
from ttr.values import checks


@dataclass(frozen=True)
class TaskRecipe(Recipe):
    """How a model is built, trained and judged: a rate that ends at 0, no MLP unless ``mlp_ratio`` says so,
    new sequences in every step, and ``judged`` sequences of every judged task."""

    depth: int = 1
    heads: int = 1
    batch: int = 64
    mlp_ratio: float = 0.0
    warmup: float = 0.2
    final_rate: float = 0.0
    checkpoint_every: int = 100
    steps: int = 500
    judged: int = 256


class SmallModel(nn.Module):
    """Embedding (a linear map, if vectors are read), ``depth`` times a layer and perhaps a SwiGLU, output.

    For tasks whose answers are decoded from the last token an MLP reads its output beside an embedding of
    each place.
    """

    def __init__(self, recipe: TaskRecipe, layer: Architecture, task: Task) -> None:
        super().__init__()
        width = recipe.width
        if task.reads_vectors:
            self.embedding = nn.Linear(task.channels, width, bias=False)
        else:
            self.embedding = nn.Embedding(task.channels, width)
            nn.init.normal_(self.embedding.weight, std=0.02)
        parts: list[nn.Module] = []
        for place in range(recipe.depth):
            parts.append(Mixer(width, layer, heads=recipe.heads, layer=place, layers=recipe.depth))
            if recipe.mlp_ratio:
                parts.append(SwiGLU(width, round(recipe.mlp_ratio * width)))
        self.parts = nn.ModuleList(parts)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in parts)
        self.norm = nn.RMSNorm(width)
        self.decoder = Decoder(task.decoded, width) if task.decoded else None
        self.head = nn.Linear(width, task.outputs, bias=False)

    def forward(self, inputs: Tensor) -> Float[Tensor, "B L W"]:
        """What the output layer reads at every place."""
        x = self.embedding(inputs)
        for norm, part in zip(self.norms, self.parts, strict=True):
            x = x + part(norm(x))
        x = self.norm(x)
        return x if self.decoder is None else self.decoder(x[:, -1])

    @checks(values=False)  # numbers that are not finite are a result here, which the loss reports
    def answers(self, sequences: LabelledSequences) -> Float[Tensor, "asked V"]:
        """What the model says where something is asked, in the order of the places."""
        return self.head(self(sequences.inputs)[sequences.asked])


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x)  (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """From one vector those of ``places`` places."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(places, width))
        self.mlp = nn.Sequential(nn.Linear(2 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "B W"]) -> Float[Tensor, "B P W"]:
        each = self.places.expand(len(x), -1, -1)
        return self.mlp(torch.cat([x[:, None].expand_as(each), each], dim=-1))
