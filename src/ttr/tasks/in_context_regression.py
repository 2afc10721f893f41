"""In-context linear regression: inputs x with their values W x, a new W in every sequence (Garg et al., "What
can transformers learn in-context?", arXiv 2208.01066; the drifting form after arXiv 2510.01450).

A token is (x, 0) and asks for W x; the next one is (x, W x) and tells it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.tasks.task import ERROR, LabelledSequences, Task


@dataclass(frozen=True)
class InContextRegression(Task):
    """
    Attributes:
        size: channels of x and of its values.
        pairs: of x and W x in a sequence, which has twice as many tokens.
        segment: after so many pairs there is a new W, and x comes from another place, which tells the
            segment; None for one W alone.
        noise: deviation of the noise of the values that are told, relative to theirs.
        asked_from: the number of the first pair that is asked for. In segments it counts anew.

    Raises:
        ValueError: if nothing is asked.
    """

    name = "in-context-regression"
    reads_vectors = True
    says = ERROR

    size: int = 8
    pairs: int = 32
    segment: int | None = None
    noise: float = 0.0
    asked_from: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.asked_from < (self.segment or self.pairs) <= self.pairs:
            raise ValueError(
                f"Of {self.pairs} pairs in segments of {self.segment or self.pairs} none comes after "
                f"{self.asked_from}. Ask earlier."
            )

    @property
    def channels(self) -> int:
        return 2 * self.size

    @property
    def outputs(self) -> int:
        return self.size

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator, per = torch.Generator().manual_seed(seed), self.segment or self.pairs
        segments = -(-self.pairs // per)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, segments, *shape, generator=generator)

        x = normal(per, self.size)
        if self.segment is not None:
            x = (x + 2.0 * normal(1, self.size)) / 5.0**0.5
        values = x @ normal(self.size, self.size) / self.size**0.5
        told = values + self.noise * normal(per, self.size)
        tokens = torch.stack([torch.cat([x, torch.zeros_like(x)], -1), torch.cat([x, told], -1)], dim=3)
        labels = torch.full((*values.shape[:3], 2, self.size), torch.nan)
        labels[:, :, self.asked_from :, 0] = values[:, :, self.asked_from :]
        return LabelledSequences(*(x.flatten(1, 3)[:, : 2 * self.pairs] for x in (tokens, labels)))

    def exact(self, inputs: Float[Tensor, "N L C"]) -> Float[Tensor, "N L V"]:
        """The least squares of smallest norm on the pairs of the segment so far."""
        x, told = inputs[:, 1::2].double().chunk(2, dim=-1)
        found = torch.full((*inputs.shape[:2], self.size), torch.nan, dtype=torch.float64)
        per = self.segment or self.pairs
        for i in range(self.pairs):
            known = slice(i // per * per, i)
            if known.start < i:
                found[:, 2 * i] = (x[:, i, None] @ torch.linalg.pinv(x[:, known]) @ told[:, known]).squeeze(1)
        return found.to(inputs.dtype)
