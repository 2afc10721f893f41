from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.problem import Weights


def _harmonic(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """log 1, log 2, ..., log K in every head: the real initialisation of a diagonal state space (S4D, arXiv
    2206.11893)."""
    return torch.arange(1, shape[-1] + 1).log().expand(shape).clone()


@dataclass(frozen=True)
class FactoredGeometric(Weights):
    """Decay per key channel that factors into token and channel: log D_t = log_decay_t exp(rate_d).

    The control log_decay is one number per token and head, the parameter ``rate`` one per head and channel,
    as in a state space whose transition exp(dt A) shares the time step dt between its channels (Mamba, arXiv
    2312.00752). A product below ``RESET`` erases the channel's past.
    """

    retention = "channel"

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH"}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"rate": Parameter((heads, key_size), _harmonic)}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"].clamp(min=-1e30)  # finite: a reset has gradient 0

    def rates(self, params: Mapping[str, Tensor]) -> Tensor:
        return params["rate"].exp()

    def formulas(self) -> dict[str, str]:
        return {
            "weight": (
                "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t exp(rate)), one for every "
                "key channel with its own rate"
            ),
            "decay": "D_t = diag(a_t)",
            "approximation": "A decay per key channel is not a weight of a pair, so the memory minimises "
            "no weighted squared error in the keys themselves. It is the fit to keys whose channels have "
            "decayed by the time they are read.",
        }

    @classmethod
    def examples(cls) -> tuple[FactoredGeometric, ...]:
        return (cls(),)
