"""A needle in a haystack: a number stated somewhere in a long text that says nothing, asked for at its end
(the pass key of Mohtashami, Jaggi, arXiv 2305.16300; the first single-needle task of RULER, arXiv
2404.06654), in bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ttr.tasks.task import UNLABELLED, LabelledSequences, Task

HAY = b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
BEFORE, AFTER = b"The pass key is ", b". Remember it. "
QUESTION = b"What is the pass key? The pass key is "
ZERO = ord("0")


@dataclass(frozen=True)
class Needle(Task):
    """
    Attributes:
        length: bytes of a sequence, the question and all digits but the last included.
        digits: of the number.
        depth: where the needle stands, from 0 for the beginning to 1 for the end; None for anywhere.

    Raises:
        ValueError: if the needle and the question leave no hay.
    """

    name = "needle"

    length: int = 256
    digits: int = 4
    depth: float | None = None

    def __post_init__(self) -> None:
        if self._hay < 1:
            raise ValueError(
                f"{self.length} bytes hold no hay beside the needle and the question. Use at least "
                f"{self.length - self._hay + 1}."
            )

    @property
    def channels(self) -> int:
        return 256

    @property
    def _hay(self) -> int:
        return self.length - len(BEFORE + AFTER + QUESTION) - 2 * self.digits + 1

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator, rows = torch.Generator().manual_seed(seed), []
        keys = ZERO + torch.randint(10, (count, self.digits), generator=generator)
        hay = (HAY * (-(-self._hay // len(HAY)) + 1))[: self._hay]
        at = (
            torch.rand(count, generator=generator) if self.depth is None else torch.full((count,), self.depth)
        )
        for key, depth in zip(keys.tolist(), at.tolist(), strict=True):
            place, number = round(depth * self._hay), bytes(key)
            text = hay[:place] + BEFORE + number + AFTER + hay[place:] + QUESTION + number[:-1]
            rows.append(list(text))
        inputs = torch.tensor(rows)
        labels = torch.full_like(inputs, UNLABELLED)
        labels[:, -self.digits :] = keys
        return LabelledSequences(inputs, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The digits that stand behind the first "The pass key is "."""
        found = torch.full_like(inputs, UNLABELLED)
        for row, said in zip(inputs.tolist(), found, strict=True):
            start = bytes(row).index(BEFORE) + len(BEFORE)
            said[-self.digits :] = torch.tensor(row[start : start + self.digits])
        return found
