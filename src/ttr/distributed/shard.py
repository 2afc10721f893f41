"""Which tokens of the sequences every process holds."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ttr.prepare import check_packing, check_sizes


@dataclass(frozen=True)
class SequenceShard:
    """The contiguous shard of all sequences that this process holds, one of those of a group of processes.

    Attributes:
        cuts: [0, ..., T], where the shards of the processes meet.
        bounds: [0, ..., T] of documents packed along time, none of them empty; (0, T) if ``packed`` is False:
            every row of a batch is then one sequence.
        rank: the number of this process in the group.
    """

    cuts: tuple[int, ...]
    bounds: tuple[int, ...]
    packed: bool
    rank: int
    group: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def of(mesh: DeviceMesh, tokens: int, cu_seqlens: Int[Tensor, " bounds"] | None = None) -> SequenceShard:
        """The shard of this process: T tokens cut as evenly as ``torch.tensor_split`` does.

        Args:
            mesh: a mesh of one dimension, such as mesh["sequence"].
            tokens: T, the length of the rows of a batch, which all processes together hold.
            cu_seqlens: the boundaries [0, ..., T] of documents packed along time; without them every row is
                one sequence.

        Raises:
            ValueError: if the mesh has several dimensions, or more processes than there are tokens, or if the
                boundaries are none.
        """
        if not isinstance(mesh, DeviceMesh) or mesh.ndim != 1:
            raise ValueError(
                f"A sequence is cut along one dimension of a DeviceMesh, and this is {mesh!r}. Use "
                'mesh["sequence"], or the name of another dimension.'
            )
        check_sizes(tokens=tokens)
        check_packing(cu_seqlens, 1, tokens)
        group = mesh.get_group()
        return SequenceShard.among(
            dist.get_world_size(group),
            dist.get_rank(group),
            tokens,
            None if cu_seqlens is None else cu_seqlens.tolist(),
            group,
        )

    @staticmethod
    def among(
        processes: int,
        rank: int,
        tokens: int,
        cu_seqlens: Sequence[int] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> SequenceShard:
        """The shard of process ``rank`` of several."""
        check_sizes(processes, tokens=tokens)
        sizes = [tokens // processes + (process < tokens % processes) for process in range(processes)]
        cuts = tuple(itertools.accumulate(sizes, initial=0))
        bounds = (0, tokens) if cu_seqlens is None else tuple(sorted(set(cu_seqlens)))
        return SequenceShard(cuts, bounds, cu_seqlens is not None, rank, group)

    @property
    def time(self) -> int:
        """The tokens of this process."""
        return self.cuts[self.rank + 1] - self.cuts[self.rank]

    @property
    def before(self) -> int:
        """How many tokens of the sequence of its first token earlier processes hold."""
        return self.cuts[self.rank] - self._begin(self.cuts[self.rank])

    @property
    def earlier(self) -> range:
        """The processes that hold them."""
        return self._earlier(self.rank)

    @property
    def exchanges(self) -> bool:
        """Whether any process goes on with a sequence of another."""
        return any(self._earlier(rank) for rank in range(len(self.cuts) - 1))

    @property
    def passes_on(self) -> bool:
        """Whether the next process goes on with the last sequence of this one."""
        return self.rank + 2 < len(self.cuts) and len(self._earlier(self.rank + 1)) > 0

    @property
    def last(self) -> tuple[int, ...]:
        """How many tokens of its last sequence each process holds itself."""
        return tuple(
            stop - max(start, self._begin(stop - 1)) for start, stop in zip(self.cuts, self.cuts[1:])
        )

    def cu_seqlens(self, device: torch.device | None = None) -> Int[Tensor, " bounds"] | None:
        """The boundaries [0, ..., time] of the documents in this shard; None if every row is one
        sequence."""
        if not self.packed:
            return None
        start, stop = self.cuts[self.rank : self.rank + 2]
        inner = [bound - start for bound in self.bounds if start < bound < stop]
        return torch.tensor([0, *inner, stop - start], device=device)

    def start(self, rows: int, device: torch.device) -> Int[Tensor, " rows"]:
        """How many tokens of every sequence of this shard earlier processes hold."""
        held = torch.zeros(rows, dtype=torch.int64, device=device)
        held[: 1 if self.packed else rows] = self.before
        return held

    def cut(self, x: Tensor, dim: int = 1) -> Tensor:
        """The part of this process of a tensor of all T tokens along ``dim``."""
        if x.shape[dim] != self.cuts[-1]:
            raise ValueError(
                f"This tensor has {x.shape[dim]} tokens along dimension {dim}, and the sequences "
                f"{self.cuts[-1]}. Cut what holds all tokens."
            )
        return x.narrow(dim, self.cuts[self.rank], self.time)

    def of_call(self, x: Tensor, state: object, cu_seqlens: object) -> Int[Tensor, " bounds"] | None:
        """The boundaries of the documents in a call [B,T,...] of a layer.

        Raises:
            ValueError: if it does not fit this shard.
        """
        if state is not None or cu_seqlens is not None:
            given = "boundaries of sequences" if state is None else "a state or a cache"
            raise ValueError(
                "A shard of longer sequences begins where the process before ends, and this call brings "
                f"{given}. Give SequenceShard.of the boundaries of all sequences, and leave states, caches "
                "(use_cache=True) and masks out."
            )
        self.check(x.shape[1])
        return self.cu_seqlens(x.device)

    def check(self, time: int) -> None:
        """Raises a ValueError unless a call has the tokens of this shard."""
        if time != self.time:
            raise ValueError(
                f"This call has {time} tokens, and process {self.rank} of {len(self.cuts) - 1} holds "
                f"{self.time} of {self.cuts[-1]}. Pass what SequenceShard.cut returns."
            )

    def _begin(self, token: int) -> int:
        """Where the sequence of a token begins."""
        return self.bounds[bisect_right(self.bounds, token) - 1]

    def _earlier(self, rank: int) -> range:
        return range(bisect_right(self.cuts, self._begin(self.cuts[rank])) - 1, rank)
