"""The states of the memories between two calls, as a transformers ``Cache`` for use in ``generate``."""

from __future__ import annotations

from dataclasses import fields
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPast

from ttr.layer.sizes import Sizes
from ttr.models.packing import Rows
from ttr.models.recorded import Layer, Recorded
from ttr.problem import Problem
from ttr.state import State, keeps_too_little

CACHE = next(f.name for f in fields(BaseModelOutputWithPast) if f.name in ("cache", "past_key_values"))
"""The name of the cache in outputs and in ``generate``, in this version of transformers."""


class MemoryLayer(CacheLayerMixin):
    """The state of one layer; None before its first token. The methods have the names that ``Cache`` calls.

    A call stores its new state in ``next`` until every layer has run, so that a refused call changes nothing.
    Only a single token may be ``written`` in place, into the tensors of the state, and only if these are
    ``owned``: created by the cache, outside any autograd graph, and in a model in which no layer has a limit
    that it could reach before this one.

    With ``record_past`` a layer keeps in ``recorded`` what it has read since the last ``crop``, which a call
    puts in ``read`` until every layer has run; one whose state can be rewound only from the first call with
    padding on. A crop takes ``state`` back to ``recorded.before`` and leaves the layer ``behind``: its next
    call reads the kept tokens once more.
    """

    is_compileable = False
    is_croppable = True
    supports_early_init = False
    keys = values = None

    def __init__(self) -> None:
        self.record_past = False
        self.reset()

    @property
    def is_initialized(self) -> bool:
        """Whether the layer has read a token."""
        return self.state is not None

    @property
    def is_sliding(self) -> bool:
        """Whether the memory keeps a window of pairs, as far as is known before the first token."""
        return self.problem is not None and self.problem.weights.window is not None

    def begin(
        self, layer: Layer, x: Float[Tensor, "B T D"], cu_seqlens: Int[Tensor, " bounds"] | None
    ) -> None:
        """Before the layer reads x: read again what a crop has kept, and note x if the past is recorded."""
        if self.behind:
            self.state, self.recorded, self.behind = self.recorded.state(layer), None, False
        if self.record_past:
            rows = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
            self.read = layer.mixer.initial_state(rows) if self.state is None else self.state, x

    def commit(self, problem: Problem, endless: bool, columns: int, packing: Rows) -> None:
        """Make the new state of the call current."""
        self.problem = problem
        self.state, self.next = self.next, None
        self.owned, self.written = (
            endless and not any(tensor.requires_grad for tensor in self.state.tensors.values()),
            False,
        )
        self.columns += columns
        unpadded = packing.unpadded
        self.unpadded = self.unpadded + columns if unpadded == columns else unpadded
        if self.record_past:
            self._record(*self.read, packing)
        else:
            self.recorded = None

    def _record(self, before: State, x: Tensor, packing: Rows) -> None:
        """Keep what the call read, unless the state can be rewound without it."""
        self.read = None
        padded = packing.unpadded < packing.shape[1] or self.recorded is not None
        if not padded and keeps_too_little(self.problem, self.state) is None:
            return
        tokens = packing.tokens(x.device)
        if tokens is None:  # the columns are no columns of sequences
            self.recorded, self.owned = None, False
            return
        x = packing.unpack(x)
        self.recorded = (
            Recorded(before, x, tokens) if self.recorded is None else self.recorded.followed_by(x, tokens)
        )

    def activate_past_recording(self) -> None:
        """From the next call on, keep what ``crop`` needs to take back the calls since the last one."""
        self.record_past = True
        self.owned = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the newest columns of the batch; see ``TTRCache.crop``."""
        remove = self.to_remove(tokens_to_remove)
        self.go_back(remove, *self.earlier(remove))

    def to_remove(self, tokens_to_remove: int) -> int:
        """Number of columns that a ``crop`` removes.

        Raises:
            ValueError: if the layer has not read as many.
        """
        remove = max(self.columns - tokens_to_remove, 0) if tokens_to_remove > 0 else -tokens_to_remove
        if remove > self.columns:
            raise ValueError(
                f"This cache has read {self.columns} columns and cannot remove {remove}. Remove fewer, or "
                "reset() it."
            )
        return remove

    def earlier(self, remove: int) -> tuple[State | None, Recorded | None]:
        """The state before the newest columns, and what is to be read again from it.

        Raises:
            ValueError: if the layer does not know them.
        """
        if not remove:
            return self.state, self.recorded if self.behind else None
        if self.recorded is not None and remove <= self.recorded.real.shape[1]:
            kept = self.recorded.without(remove)
            return kept.before, kept if kept.real.shape[1] else None
        if self.recorded is not None and keeps_too_little(self.problem, self.state) is None:
            raise ValueError(
                "The columns to remove begin before a call with padding, of which every row loses other "
                "tokens. Crop once before such a call, or keep copy.deepcopy(cache) from then."
            )
        if remove > self.unpadded:
            raise ValueError(
                "The columns to remove hold padding or packed sequences, of which every row loses other "
                "tokens. Remove only columns without padding, or call activate_past_recording() on the cache "
                "before they are read, with one sequence per row."
            )
        reason = keeps_too_little(self.problem, self.state)
        if reason:
            raise ValueError(
                f"{reason} Call activate_past_recording() on the cache before it reads what a crop is to "
                "remove, or keep copy.deepcopy(cache) from then."
            )
        return self.state.rewind(self.problem, remove), None

    def go_back(self, remove: int, state: State | None, recorded: Recorded | None) -> None:
        """Continue from what ``earlier`` returned."""
        self.state, self.recorded, self.behind = state, recorded, recorded is not None
        self.owned = False
        self.columns -= remove
        self.unpadded = max(self.unpadded - remove, 0)

    def reset(self) -> None:
        """Drop all states."""
        self.problem: Problem | None = None
        self.state: State | None = None
        self.next: State | None = None
        self.read: tuple[State, Tensor] | None = None
        self.recorded: Recorded | None = None
        self.device: torch.device | None = None
        self.owned = self.written = self.behind = False
        self.columns = self.unpadded = 0

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Select rows of the batch, in that order."""
        if self.state is None:
            return
        indices = indices.to(self.state.position.device)
        self.state = self.state.select(indices)
        if self.recorded is not None:
            self.recorded = self.recorded.select(indices)

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Row i continues from row ``beam_idx[i]``."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, copies next to each other."""
        if self.state is not None:
            self.batch_select_indices(torch.arange(len(self.state.position)).repeat_interleave(repeats))

    def tokens_read(self) -> Int[Tensor, " rows"] | None:
        """How many tokens of every sequence the layer has read; None before its first."""
        if self.state is None or not self.behind:
            return None if self.state is None else self.state.position
        return self.state.position + self.recorded.real.sum(1).to(self.state.position)

    def get_seq_length(self) -> int:
        """Number of columns of the batch read so far, padding included."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a mask covers, and where it starts."""
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """Number of tokens that a row can have; -1 for no limit."""
        fixed = None if self.state is None else self.state.capacity
        horizon = None if self.problem is None else self.problem.weights.horizon
        return min((limit for limit in (fixed, horizon) if limit), default=-1)

    get_max_cache_shape = get_max_length  # its name in transformers 5.12

    def offload(self) -> None:
        """Move the state to the CPU."""
        if self.state is not None:
            self.device = self.state.position.device
            self.state = self.state.to("cpu")

    def prefetch(self) -> None:
        """Move the state back to the device it was on."""
        if self.state is not None and self.device is not None:
            self.state = self.state.to(self.device)

    def lazy_initialization(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse keys and values, as ``update``."""
        self.update()

    def update(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse keys and values, which only attention layers of transformers pass.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "A TTRCache holds the states of ttr memories, not keys and values. Give attention layers of "
            "transformers a DynamicCache."
        )


class TTRCache(Cache):
    """One ``ttr.State`` per layer, which ``TTRForCausalLM`` reads and replaces.

    Every row of the batch counts its own tokens (``state.position``), so rows with padding count fewer;
    ``get_seq_length`` counts the columns of the batch, padding included, as transformers does.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[MemoryLayer() for _ in range(layers)])
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

    def commit(self, memories: tuple[tuple[Problem, Sizes], ...], columns: int, packing: Rows) -> None:
        """Make the new states of all layers current, and count the columns that they have read."""
        endless = not any(
            problem.weights.horizon or layer.next.capacity
            for (problem, _), layer in zip(memories, self.layers)
        )
        for (problem, _), layer in zip(memories, self.layers):
            layer.commit(problem, endless, columns, packing)
        self.memories = memories

    def activate_past_recording(self) -> None:
        """From the next call on, keep what ``crop`` needs to take calls back; see ``crop``."""
        for layer in self.layers:
            layer.activate_past_recording()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the newest columns of the batch in every layer, or in none if one refuses.

        A memory that stores all its pairs drops the newest ones, if no row has padding there. Any other can
        go back as far as its last ``crop``: after ``activate_past_recording`` it keeps its state from then
        and what the layer has read since, padding or not, and the next call reads once more what the crop has
        kept.

        Args:
            tokens_to_remove: -n for the newest n columns, or the number of columns to keep.

        Raises:
            ValueError: if a layer cannot go back, in a sentence that says which and why.
        """
        earlier = []
        for number, layer in enumerate(self.layers):
            try:
                earlier.append(layer.earlier(layer.to_remove(tokens_to_remove)))
            except ValueError as refused:
                raise ValueError(f"Layer {number}: {refused}") from refused
        for layer, found in zip(self.layers, earlier):
            layer.go_back(layer.to_remove(tokens_to_remove), *found)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether a layer, or any, has read a token."""
        return self.has_states() if layer_idx is None else self.layers[layer_idx].is_initialized

    @property
    def is_initialized(self) -> bool:
        """Whether any layer has read a token."""
        return self.has_states()

    @property
    def batch_size(self) -> int:
        """Number of sequences; -1 before the first token."""
        return next((len(state.position) for state in self.states() if state is not None), -1)

    @property
    def max_cache_len(self) -> int:
        """Number of tokens that a row can have in some layer; -1 for no limit."""
        return max(layer.get_max_length() for layer in self.layers)

    max_batch_size = batch_size  # the names of both in transformers 5.12

    def prefetch(self, layer_idx: int, only_non_sliding: bool = True) -> None:
        """Move the state of a layer back to the device it was on before ``offload``."""
        self.layers[layer_idx % len(self.layers)].prefetch()

    def reset(self) -> None:
        """Drop all states."""
        super().reset()
        self.memories = None

    def update(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse keys and values; see ``MemoryLayer.update``."""
        self.layers[0].update()
