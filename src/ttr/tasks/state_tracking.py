"""State tracking: the product of all group elements that were read so far (Grazzi et al., "Unlocking
state-tracking in linear RNNs through negative eigenvalues", arXiv 2411.12537; Siems et al., "DeltaProduct",
arXiv 2502.10297)."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ttr.tasks.task import UNLABELLED, LabelledSequences, Task

GROUPS = {"parity": 2, "S3": 3, "S5": 5}
"""The permutations of so many things; parity is the sum of bits, the group of two elements."""


@functools.cache
def products(group: str) -> Int[Tensor, "G G"]:
    """Entry (a, b) is the number of the product a b: first b, then a. 0 is the neutral element."""
    elements = list(itertools.permutations(range(GROUPS[group])))
    number = {element: i for i, element in enumerate(elements)}
    return torch.tensor([[number[tuple(a[i] for i in b)] for b in elements] for a in elements])


@dataclass(frozen=True)
class WordProblem(Task):
    """Random elements of a group; at every place its product with all those before it is to be said.

    Attributes:
        group: a name in ``GROUPS``.
        length: elements of a sequence, if all have the same.
        shortest: otherwise lengths are drawn evenly from here to ``length``, one for all sequences of a draw.
        asked_from: the first place at which something is asked.

    Raises:
        ValueError: if there is no such group, or the lengths are impossible.
    """

    name = "word-problem"

    group: str = "S3"
    length: int = 32
    shortest: int | None = None
    asked_from: int = 0

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"There is no group {self.group!r}. Use {', '.join(GROUPS)}.")
        if not self.asked_from < (self.shortest or self.length) <= self.length:
            raise ValueError(
                f"Lengths from {self.shortest or self.length} to {self.length} with questions from place "
                f"{self.asked_from} on leave nothing to ask."
            )

    @property
    def channels(self) -> int:
        return math.factorial(GROUPS[self.group])

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        length = self.length
        if self.shortest is not None:
            length = int(torch.randint(self.shortest, self.length + 1, (), generator=generator))
        elements = torch.randint(self.channels, (count, length), generator=generator)
        labels = self.exact(elements)
        labels[:, : self.asked_from] = UNLABELLED
        return LabelledSequences(elements, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The running product."""
        table, product, found = products(self.group), torch.zeros_like(inputs[:, 0]), []
        for element in inputs.unbind(1):
            product = table[element, product]
            found.append(product)
        return torch.stack(found, dim=1)
