"""The states of the memories between two calls, as a transformers ``Cache`` for use in ``generate``."""

from __future__ import annotations

from typing import NoReturn

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache

from ttr.layer.sizes import Sizes
from ttr.problem import Problem
from ttr.state import State


class MemoryLayer:
    """The state of one layer; None before its first token. The methods have the names that ``Cache`` calls.

    A call stores its new state in ``next`` until every layer has run, so that a refused call changes nothing.
    Only a single token may be ``written`` in place, into the tensors of the state, and only if these are
    ``owned``: created by the cache, outside any autograd graph, and in a model in which no layer has a limit
    that it could reach before this one.
    """

    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self) -> None:
        self.state: State | None = None
        self.next: State | None = None
        self.owned = self.written = False

    def commit(self, endless: bool) -> None:
        """Make the new state of the call current."""
        self.state, self.next = self.next, None
        self.owned, self.written = (
            endless and not any(tensor.requires_grad for tensor in self.state.tensors.values()),
            False,
        )

    def reset(self) -> None:
        """Drop all states."""
        self.state = self.next = None
        self.owned = self.written = False

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Select rows of the batch, in that order."""
        if self.state is not None:
            self.state = self.state.select(indices.to(self.state.position.device))

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Row i continues from row ``beam_idx[i]``."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, copies next to each other."""
        if self.state is not None:
            self.batch_select_indices(torch.arange(len(self.state.position)).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to remove tokens.

        Raises:
            ValueError: if tokens would have to be removed.
        """
        if tokens_to_remove:
            raise ValueError(
                "A memory cannot remove its newest tokens. Keep copy.deepcopy(cache) from before they "
                "were read, and continue from the copy."
            )

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1


class TTRCache(Cache):
    """One ``ttr.State`` per layer, which ``TTRForCausalLM`` reads and replaces.

    Every row of the batch counts its own tokens (``state.position``), so rows with padding count fewer;
    ``get_seq_length`` counts the columns of the batch, padding included, as transformers does.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[MemoryLayer() for _ in range(layers)])
        self.columns = 0
        self.memories: tuple[tuple[Problem, Sizes], ...] | None = None

    def states(self) -> list[State | None]:
        """The state of every layer."""
        return [layer.state for layer in self.layers]

    def has_states(self) -> bool:
        """Whether any layer has read a token."""
        return any(layer.state is not None for layer in self.layers)

    def check(self, memories: tuple[tuple[Problem, Sizes], ...], rows: int) -> None:
        """Check that a model with these memories can continue from this cache with ``rows`` sequences.

        Raises:
            ValueError: if the cache has other memories or another number of sequences, or not all layers are
                at the same token.
        """
        if len(self.layers) != len(memories):
            raise ValueError(
                f"This cache has {len(self.layers)} layers and the model {len(memories)}. "
                "Use TTRCache(config.num_hidden_layers), or the cache of a call of this model."
            )
        if self.memories not in (None, memories):
            raise ValueError(
                "This cache is of a model whose layers have other memories or sizes. Use one "
                "of this model, or reset() this one."
            )
        if any(layer.written for layer in self.layers):
            raise ValueError(
                "A call with this cache failed after some of its layers had advanced. Continue from a "
                "copy.deepcopy(cache) made before it, or reset() the cache and read the sequence again."
            )
        held = {None if state is None else len(state.position) for state in self.states()}
        if held - {None, rows}:
            raise ValueError(
                f"This cache holds the states of {max(held - {None})} sequences, and the call has {rows}. "
                "Give as many, in the same order, or use batch_select_indices or batch_repeat_interleave."
            )
        if len(held) > 1:
            raise ValueError(
                "Some layers of this cache have a state and others have none. Use the cache of a call of "
                "this model."
            )

    def commit(self, memories: tuple[tuple[Problem, Sizes], ...], columns: int) -> None:
        """Make the new states of all layers current, and count the columns that they have read."""
        endless = not any(
            problem.weights.horizon or layer.next.capacity
            for (problem, _), layer in zip(memories, self.layers)
        )
        for layer in self.layers:
            layer.commit(endless)
        self.memories = memories
        self.columns += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of columns read so far."""
        return self.columns

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns that a mask covers, and where it starts."""
        return self.columns + query_length, 0

    def reset(self) -> None:
        """Drop all states."""
        super().reset()
        self.columns = 0
        self.memories = None

    def update(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse keys and values, which only attention layers of transformers pass.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "A TTRCache holds the states of ttr memories, not keys and values. Give attention layers of "
            "transformers a DynamicCache."
        )
