"""The gated RMS norms of transformers' recurrent models, in one pass over their numbers."""

from __future__ import annotations

from torch import Tensor, nn

from ttr.operators.rms_norm import ACTIVATIONS, rms_norm


def gated_norm(self: nn.Module, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
    """x / rms(x) * weight * activation(gate), or with p = x * activation(gate) p / rms(p) * weight, for x and
    gate [...,D] with the root mean square over groups of channels; computed in float32 or wider.

    NotImplemented for a module with other settings than the three known kinds have, and thus perhaps another
    formula.
    """
    own, size = {name for name in vars(self) if name[0] != "_"} - {"training"}, hidden_states.shape[-1]
    if own == {"variance_epsilon", "activation"}:  # Qwen3-Next, Kimi-Linear, ...
        groups, gate_first, activation = 1, False, self.activation
    elif own == {"variance_epsilon", "group_size"}:  # Mamba-2 and its hybrids
        groups, gate_first, activation = size // self.group_size, True, "silu"
    elif own == {"variance_epsilon", "n_groups", "norm_before_gate"}:  # Falcon-H1
        groups, gate_first, activation = self.n_groups, not self.norm_before_gate, "silu"
    else:
        return NotImplemented
    if activation not in ACTIVATIONS:
        return NotImplemented
    y = rms_norm(
        hidden_states.unflatten(-1, (groups, size // groups)),
        self.variance_epsilon,
        gain=self.weight if groups == 1 else None,
        gate=None if gate is None else gate.unflatten(-1, (groups, size // groups)),
        activation=activation,
        gate_first=gate_first,
    ).flatten(-2)
    return y if groups == 1 else (y * self.weight).to(y.dtype)
