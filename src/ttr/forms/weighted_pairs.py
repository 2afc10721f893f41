"""The pairs themselves, each with its weight, and a fit to them for every query.

Used by: local functions (LocalConstant, which is softmax attention, LocalLinear, LocalQuadratic),
and any linear function under a Window; TransportedConstant, FunctionalDeltaRule and KernelRegression lower to
the other three forms of this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.forms.pair_weights import PairWeights
from ttr.inputs import Inputs, needs_composite
from ttr.state_tensors import StateTensors


class Pairs:
    """These forms share their state: ``keys`` [B,N,h,K] and ``values`` [B,N,h,V] in N slots, each with its
    own number of heads h, and ``log_weight`` [B,N,H], -inf where a slot is empty or a reset has erased its
    pair."""


@dataclass(frozen=True)
class WeightedPairs(Pairs):
    """The polynomial of degree 0, 1 or 2 that fits the pairs i <= t best, read at the query; pair i has the
    weight p_ti = softmax_i(scale query_t.key_i + log_weight_ti):

        degree 0    y_t = sum_i p_ti v_i
        degree 1    y_t = sum_i p_ti (1 - (z_i - zbar_t).rho_t) v_i with zbar_t = sum_i p_ti z_i and
                    (Cov_t(z) + diag(ridge)) rho_t = zbar_t - query_point_t, or rho_t = ``slope`` where it is
                    given
        degree 2    likewise, with all M monomials of the displacements z_i - query_point_t

    z is ``key_point``, from which the displacements are taken. Pairs are those of N slots of the state
    followed by the T new ones, and h divides H. ``state`` is that after the call; in forms that change the
    pairs, that before it.
    """

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B P h F"]
    value: Float[Tensor, "B P h V"]
    weights: PairWeights
    state: StateTensors
    scale: float = 1.0
    query_point: Float[Tensor, "B T H D"] | None = None
    key_point: Float[Tensor, "B P h D"] | None = None
    ridge: Float[Tensor, "H M"] | None = None
    slope: Float[Tensor, "B T H D"] | None = None

    @classmethod
    def begin(cls, x: Inputs, window: int | None) -> WeightedPairs:
        """The pairs of a call before the function has mapped them."""
        weights = PairWeights.of(window, x)
        state = weights.final_state(x)
        grows = x.state.capacity is None and window is None
        if not grows and not needs_composite():
            weights = weights.of_slots(max([0, *x.state.position.tolist()]))  # those filled so far
        if grows and x.wants_state and weights.slots:
            keys, values = state["keys"], state["values"]
        else:
            keys, values = _slots_and_new(x, weights.slots)
        controls = {name: x.controls.get(name) for name in ("ridge", "slope")}
        return cls(x.grouped(x.q), keys, values, weights, state, **controls)

    @property
    def scaled_query(self) -> Float[Tensor, "B T H F"]:
        """The query times the scale: a new tensor, which kernels avoid."""
        return self.query if self.scale == 1.0 else self.scale * self.query

    def finish(self, x: Inputs, y: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call."""
        return y, self.state


@dataclass(frozen=True, kw_only=True)
class TransportedPairs(WeightedPairs):
    """Degree 0 with keys that every later token transports: key_i <- (1 - step_t w_t w_t^T) key_i for i < t,
    w the ``transport_key``. The state has the keys as they are after the last token."""

    transport_key: Float[Tensor, "B T H F"]
    step: Float[Tensor, "B T H"]

    @classmethod
    def begin(cls, x: Inputs, window: int | None) -> TransportedPairs:
        weights = PairWeights.of(window, x)
        transport_key, step = x.controls["transport_key"], x.controls["step_size"]
        pairs = _slots_and_new(x, weights.slots)
        return cls(x.grouped(x.q), *pairs, weights, x.state, transport_key=transport_key, step=step)

    def finish(self, x: Inputs, y: Tensor, slots: Tensor, keys: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, from the keys of the slots and the new ones as they are after
        it."""
        after = dataclasses.replace(x, k=keys, state=x.state.replace(keys=slots))
        return y, self.weights.final_state(after)


@dataclass(frozen=True, kw_only=True)
class CorrectedPairs(WeightedPairs):
    """Degree 0 with values that the older pairs correct before they are stored: u_t = v_t - step_t y'_t,
    where y'_t is read at query t from the pairs (key_i, u_i), i < t. The state has the corrected values."""

    step: Float[Tensor, "B T H"]

    @classmethod
    def begin(cls, x: Inputs, window: int | None) -> CorrectedPairs:
        weights = PairWeights.of(window, x)
        pairs = _slots_and_new(x, weights.slots)
        return cls(x.grouped(x.q), *pairs, weights, x.state, step=x.controls["step_size"])

    def finish(self, x: Inputs, y: Tensor, values: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, from the corrected values of its tokens."""
        return y, self.weights.final_state(dataclasses.replace(x, v=values))


@dataclass(frozen=True)
class KernelPairs(WeightedPairs):
    """Kernel ridge regression: y_t = kappa(q_t, K) G (G kappa(K, K) G + ridge)^-1 G V over the pairs i <= t,
    with G the roots of their weights, exp(log_weight_ti / 2)."""

    kernel: Callable[[Tensor, Tensor], Tensor] | None = None
    """kappa of every pair of rows, [..., N, K] and [..., M, K] -> [..., N, M]."""


def _slots_and_new(x: Inputs, slots: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the first ``slots`` slots, followed by those of the call."""
    if slots == 0:
        return x.k, x.v
    keys, values = (
        torch.cat([x.state[name][:, :slots], new], dim=1) for name, new in (("keys", x.k), ("values", x.v))
    )
    return keys, values
