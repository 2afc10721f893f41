"""Super-blocks of chunks on the CPU, by torch's own products, with a backward pass of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttr.backends.linear.backend import OperatorBackend
from ttr.backends.linear.operator import ENGINES
from ttr.backends.linear.superblock import SuperblockEngine


@dataclass(frozen=True)
class Superblock(OperatorBackend):
    """Every linear recurrence: additive, corrected, erased at keys of its own; any decay; several pairs per
    token."""

    name: ClassVar[str] = "superblock"
    # where decays are strong, its products take another way for the whole super-block
    adaptive: ClassVar[bool] = True


ENGINES[Superblock.name] = SuperblockEngine()
