"""Base class of weights with a complex decay: the recurrence of a complex memory, in complex numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr.forms import rotation
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Pair, Solver, Weights


class _Rotating(Weights):
    """S_t = exp(log_decay_t + i phase_t) S_{t-1} + k_t v_t^T in complex numbers.

    For real values the read-out is Re(S)^T q and the state holds Re(S) and Im(S) as two tensors. Complex
    values and their state are stored as pairs of neighbouring channels, real part and imaginary part. The
    weights of the pairs are real numbers of either sign: y is the gradient of the linearised loss, but no
    convex objective has it as its minimum.
    """

    folds = True

    def formulas(self) -> dict[str, str]:
        default = {
            "update": (
                "S_t = Re(R_t) = sum_{i<=t} gamma_i^(t) phi(k_i) v_i^T, R_t = D_t R_{t-1} + "
                "phi(k_t) v_t^T in complex numbers"
            )
        }
        return {} if self.complex_values else default

    complex_values: bool = False
    """Whether neighbouring value channels are the real and imaginary parts of complex values."""

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        w, f = type(self).__name__, type(function).__name__
        if not solver.additive or solver.weights_act_on == "memory":
            return (
                f"{w} rotates a memory that is a plain sum of pairs over the whole past. Use OneStep "
                f"without a window, or Geometric for {type(solver).__name__}."
            )
        if self.retention == "channel" and not function.keeps_channels:
            return (
                f"{w} rotates key channels, which {f} mixes before they reach the memory. Use "
                "ComplexGeometric(per='head'), or other features."
            )
        if self.complex_values and function.normalized:
            return (
                f"{w} reads complex values, which no sum of weights can divide. Use {f} with "
                "normalized=False, or values='real'."
            )
        return None

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        if not self.complex_values:
            return {f"imaginary_{name}": shape for name, shape in memory.items()}
        if value_size % 2:
            raise ValueError(
                f"Complex values take two channels each, but the values have {value_size}. Use an even "
                "number."
            )
        return {}

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """Write the pairs in a frame that does not rotate, see ``forms/rotation.py``."""
        cos, sin = rotation.frame(x)
        if self.complex_values:

            def rotate_back(
                form: LinearRecurrence, y: Tensor, tensors: dict[str, Tensor]
            ) -> tuple[Tensor, dict[str, Tensor]]:
                memory = rotation.rotate(tensors["memory"], *rotation.total(x))
                return rotation.rotate(y, cos, sin), {"memory": memory}

            return form.then(rotate_back, value=rotation.rotate(form.value, cos, -sin))

        def split_parts(
            form: LinearRecurrence, y: Tensor, tensors: dict[str, Tensor]
        ) -> tuple[Tensor, dict[str, Tensor]]:
            (cos, sin), (real, crossed) = rotation.total(x), tensors["memory"].chunk(2, dim=-2)
            return y, {
                "memory": cos * real + sin * crossed,
                "imaginary_memory": sin * real - cos * crossed,
            }

        log_decay = form.log_decay
        if log_decay is not None and log_decay.ndim == 4:
            log_decay = torch.cat([log_decay, log_decay], dim=-1)
        return form.then(
            split_parts,
            query=rotation.double(form.query, cos, sin),
            key=rotation.double(form.key, cos, sin),
            log_decay=log_decay,
            memory=torch.cat([form.memory, -rotation.imaginary(x)], dim=-2),
        )

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
            decayed = retention * (state if state.ndim == 4 else state[..., None])
            state = (decayed + pair.key[..., None] * targets[name][..., None, :]).reshape(memory[name].shape)
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
    """Undo ``_complex``. ``torch.view_as_real`` would give the derivative only at even positions of the
    memory."""
    return torch.stack([z.real, z.imag], dim=-1).flatten(-2)
