"""The decoder as a function of tensors, which ``torch.export`` and ``torch.onnx.export`` take."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ttr.models.cache import TTRCache
from ttr.models.modeling import TTRForCausalLM
from ttr.state import State
from ttr.torch_internals import scan


class ExportableDecoder(nn.Module):
    """(input_ids [B,T], *states) -> (logits [B,T,vocabulary], *states): every call continues from the states
    that the one before returned: the tensors of all layers, in the order of ``names``.

    A graph of one token is a decode step; a prompt may have any number of tokens, from two::

        decoder = ExportableDecoder(model.eval()).requires_grad_(False)
        states, token = decoder.initial_states(1), torch.zeros(1, 1, dtype=torch.int64)
        step = torch.export.export(decoder, (token, *states), strict=False)

    docs/export.md shows the other graphs, and says which memory has which form. Every row is one sequence,
    without padding; their number is that of the exported states.

    Args:
        capacity: the tokens that a row can have where a layer stores its pairs: a graph has tensors of fixed
            sizes. A graph does not check that rows stay below it.
        in_chunks: let a graph of several tokens compute them in chunks, as a call of the model does, instead
            of one after the other in a loop: fewer and larger operations, but only for ``torch.export``, in a
            process that has imported ttr, and for memories whose chunks do not fix the number of tokens.

    Raises:
        ValueError: if a layer stores its pairs and there is no capacity, or it is another model.
    """

    def __init__(
        self, model: TTRForCausalLM, capacity: int | None = None, *, in_chunks: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(model, TTRForCausalLM):
            raise ValueError(
                f"ExportableDecoder takes a TTRForCausalLM, got {type(model).__name__}. Unwrap the model, or "
                "merge its adapters."
            )
        self.model, self.capacity, self.in_chunks = model, capacity, in_chunks
        states = self._empty(1)
        for layer, state in enumerate(states):
            if not all(tensor.numel() for tensor in state.tensors.values()):
                raise ValueError(
                    f"The state of layer {layer} grows with every token, and the tensors of a graph have "
                    "fixed sizes. Give capacity, the number of tokens that a row can have."
                )
        self._kinds = [(tuple(state.tensors), state.capacity) for state in states]

    @property
    def names(self) -> list[str]:
        """The tensors of the states: "0.memory", "0.position", "1.memory", ... by layer."""
        return [
            f"{layer}.{name}"
            for layer, (tensors, _) in enumerate(self._kinds)
            for name in (*tensors, "position")
        ]

    @property
    def input_names(self) -> list[str]:
        """The inputs of a graph."""
        return ["input_ids", *(f"past.{name}" for name in self.names)]

    @property
    def output_names(self) -> list[str]:
        """The outputs of a graph."""
        return ["logits", *(f"present.{name}" for name in self.names)]

    def initial_states(self, batch: int) -> tuple[Tensor, ...]:
        """The states before the first token."""
        return _flat(self._empty(batch))

    def forward(self, input_ids: Int[Tensor, "B T"], *states: Tensor) -> tuple[Tensor, ...]:
        """The logits [B,T,vocabulary], and the states after the tokens.

        Raises:
            ValueError: if the states are not as many as ``names``, or the number of rows is left open.
        """
        if len(states) != len(self.names):
            raise ValueError(
                f"This decoder has {len(self.names)} states, got {len(states)}. Pass those of "
                "initial_states, or what the call before returned behind its logits."
            )
        if isinstance(input_ids.shape[0], torch.SymInt):
            raise ValueError(
                "The number of rows of a graph is fixed: take axis 0 of input_ids and states out of "
                "dynamic_shapes, and export a graph for every number of rows."
            )
        if self.in_chunks or input_ids.shape[1] == 1 or not torch.compiler.is_compiling():
            return self._read(input_ids, states)

        def token(states: list[Tensor], ids: Int[Tensor, " B"]) -> tuple[list[Tensor], Tensor]:
            logits, *states = self._read(ids[:, None], states)
            # a loop hands on tensors of its own, laid out as they came
            return [state.clone(memory_format=torch.contiguous_format) for state in states], logits[:, 0]

        states, logits = scan(token, list(states), input_ids.T)
        return logits.transpose(0, 1), *states

    def _read(self, input_ids: Int[Tensor, "B T"], states: Iterable[Tensor]) -> tuple[Tensor, ...]:
        cache, tensors = TTRCache(len(self._kinds)), iter(states)
        for layer, (names, capacity) in zip(cache.layers, self._kinds):
            layer.state = State({name: next(tensors) for name in names}, next(tensors), capacity)
        logits = self.model(input_ids, past_key_values=cache).logits
        return logits, *_flat(cache.states())

    def _empty(self, batch: int) -> list[State]:
        return [block.mixer.initial_state(batch, self.capacity) for block in self.model.model.layers]


def _flat(states: Iterable[State]) -> tuple[Tensor, ...]:
    return tuple(tensor for state in states for tensor in (*state.tensors.values(), state.position))
