"""Super-blocks of chunks on the CPU, by torch's own products, with a backward pass of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttr.engines.linear import OperatorEngine
from ttr.engines.linear_operator import KERNELS
from ttr.engines.torch.linear.superblock import SuperblockKernel


@dataclass(frozen=True)
class Superblock(OperatorEngine):
    """Every linear recurrence: additive, corrected, erased at keys of its own; any decay; several pairs per
    token."""

    name: ClassVar[str] = "superblock"
    # strong decays change the method of products for the whole super-block
    adaptive: ClassVar[bool] = True


KERNELS[Superblock.name] = SuperblockKernel()
