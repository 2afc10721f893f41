"""What the models of a comparison begin as: new decoders of equal size, or a pretrained one of which every
model has other memories in place of attention layers.

The program that compares has its starting point from the settings, the cells theirs from their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ttr.experiments.memories import PLAIN, Memory, build, equal_widths, memories
from ttr.experiments.pretrained import Pretrained
from ttr.experiments.saved_model import check_context
from ttr.experiments.settings import CompareSettings, Recipe
from ttr.tasks.tokens import Encoding


class NewDecoders:
    """Decoders of equal size with new weights.

    Attributes:
        widths: of the MLP, by the name of the memory.
        vocabulary: tokens are less than that.
        reference: the name of the model without any memory of ttr's.
        facts: what the report says of the starting point, JSON-ready.
    """

    reference = PLAIN
    facts: Mapping[str, Any] = {"pretrained": None}

    def __init__(self, settings: Recipe, widths: Mapping[str, int], vocabulary: int) -> None:
        self.settings, self.widths, self.vocabulary = settings, widths, vocabulary

    def memories(self, settings: CompareSettings) -> tuple[Memory, ...]:
        """The models of a comparison, the reference last."""
        return memories(settings)

    def fit(self, found: Sequence[Memory], vocabulary: int) -> None:
        """Make sure that models with all of these memories can be built, for tokens less than ``vocabulary``.

        Raises:
            ValueError: if one cannot.
        """
        self.vocabulary = vocabulary
        self.widths = equal_widths(found, self.settings, vocabulary)

    def files(self) -> dict[str, bytes]:
        """What cells read, by the name of the argument that holds its hash."""
        return {}

    def arguments(self, memory: Memory) -> dict[str, Any]:
        """The other arguments of the cells of a memory."""
        return {"mlp_width": self.widths[memory.name]}

    def build(self, memory: Memory, seed: int) -> nn.Module:
        """A model before all training; the global generator is not changed."""
        return build(memory, self.settings, self.widths[memory.name], seed, self.vocabulary)

    def decodes(self, memory: Memory) -> bool:
        """Whether models with this memory have a state, and decode token by token."""
        return bool(memory.layers)

    def after(self, context: int) -> int:
        """After how many tokens of one sequence states are measured, and decoding."""
        return context

    def distilled(self, memory: Memory) -> float:
        """How many steps of distillation precede the training on text, for each of its steps."""
        return 0.0

    def save(self, model: nn.Module, encoding: Encoding, folder: Path) -> None:
        """Put a model and its tokenizer where they can be loaded from."""
        model.save_pretrained(folder)
        encoding.save(folder)


StartingPoint = NewDecoders | Pretrained
"""What makes the models of a comparison."""


def starting_point(settings: CompareSettings) -> StartingPoint:
    """That of a comparison.

    Raises:
        ValueError: if the pretrained model cannot be used, or reads fewer tokens than the context.
    """
    if settings.pretrained is None:
        return NewDecoders(settings, {}, 0)
    start = Pretrained.of_folder(settings.pretrained, settings.convert)
    check_context(settings.pretrained, start.longest, settings.context)
    return start


def starting_point_of(
    arguments: Mapping[str, Any], folder: Path, settings: Recipe, vocabulary: int
) -> StartingPoint:
    """That of a cell."""
    if "weights" in arguments:
        return Pretrained.of_cell(arguments, folder)
    return NewDecoders(settings, {arguments["memory"]["name"]: arguments["mlp_width"]}, vocabulary)


def distillation_steps(start: StartingPoint, memory: Memory, steps: int) -> int:
    """How many steps of distillation precede so many on text."""
    return math.ceil(start.distilled(memory) * steps)
