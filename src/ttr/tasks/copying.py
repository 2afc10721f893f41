"""Copying: a string is read and then said again (Jelassi, Brandfonbrener, Kakade, Malach, "Repeat after me",
arXiv 2402.01032)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ttr.tasks.task import UNLABELLED, LabelledSequences, Task


@dataclass(frozen=True)
class Copying(Task):
    """``length`` random letters, a sign to begin, and the letters again, each asked for after the one before.

    Attributes:
        letters: how many different ones; a token more is the sign.
        length: of the string.
        shortest: if given, lengths are drawn evenly from here to ``length``, one for all sequences of a draw.
    """

    name = "copying"

    letters: int = 26
    length: int = 24
    shortest: int | None = None

    @property
    def channels(self) -> int:
        return self.letters + 1

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        length = self.length
        if self.shortest is not None:
            length = int(torch.randint(self.shortest, self.length + 1, (), generator=generator))
        string = torch.randint(self.letters, (count, length), generator=generator)
        sign = torch.full((count, 1), self.letters)
        inputs = torch.cat([string, sign, string[:, :-1]], dim=1)
        labels = torch.full_like(inputs, UNLABELLED)
        labels[:, length:] = string
        return LabelledSequences(inputs, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The letter at the same place of the string."""
        length = inputs.shape[1] // 2
        found = torch.full_like(inputs, UNLABELLED)
        found[:, length:] = inputs[:, :length]
        return found
