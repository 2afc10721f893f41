"""What weights with a complex retention share: the recurrence of a complex memory, in complex numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr.problem import Function, Pair, Weights


class _Rotating(Weights):
    """S_t = exp(log_decay_t + i phase_t) S_{t-1} + k_t v_t^T in complex numbers.

    Of real values the read-out is Re(S)^T q and the state is Re(S) and Im(S), tensors of their own. Complex
    values come and go as pairs of channels, real and imaginary part beside one another, and so does the
    state. The weights of the pairs are real
    numbers of either sign: y is the gradient of the linearised loss, but no convex objective has it as its
        minimum.
    """

    folds = True

    def formulas(self) -> dict[str, str]:
        turning = {
            "update": (
                "S_t = Re(R_t) = sum_{i<=t} gamma_i^(t) phi(k_i) v_i^T, R_t = D_t R_{t-1} + "
                "phi(k_t) v_t^T in complex numbers"
            )
        }
        return {} if self.complex_values else turning

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        log_decay = pair.key.new_zeros(pair.key.shape[:-1]) if pair.log_decay is None else pair.log_decay
        phase = self.phase(pair.controls, params, pair.key)
        retention = torch.exp(torch.complex(log_decay, phase.expand_as(log_decay)))
        retention = retention.reshape(*retention.shape, *(1,) * (4 - retention.ndim))
        if self.complex_values:
            state = (
                retention * _complex(memory["memory"])
                + pair.key[..., None] * _complex(pair.value)[..., None, :]
            )
            return {"memory": _channels(state)}
        learned = {}
        targets = {"memory": pair.value, "normalizer": pair.value.new_ones(*pair.value.shape[:-1], 1)}
        for name in function.memory(1, 1):
            state = torch.complex(memory[name], memory[f"imaginary_{name}"])
            kept = retention * (state if state.ndim == 4 else state[..., None])
            state = (kept + pair.key[..., None] * targets[name][..., None, :]).reshape(memory[name].shape)
            learned |= {name: state.real, f"imaginary_{name}": state.imag}
        return learned

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        if self.complex_values:
            return _channels((query[..., None] * _complex(after["memory"])).sum(-2))
        y = (query[..., None] * after["memory"]).sum(-2)
        return (
            function.ratio(y, (query * after["normalizer"]).sum(-1, keepdim=True))
            if function.normalized
            else y
        )


def _complex(x: Tensor) -> Tensor:
    """Neighbouring channels as the real and imaginary parts of one complex number: [..., 2 C] -> [..., C]."""
    return torch.complex(x[..., ::2], x[..., 1::2])


def _channels(z: Tensor) -> Tensor:
    """Undo ``_complex``; a view of the complex numbers would have a derivative at even places of the memory
    alone."""
    return torch.stack([z.real, z.imag], dim=-1).flatten(-2)
