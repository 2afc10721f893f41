"""The linear recurrence: a memory that is a matrix, to which pairs are added or which steps of the delta rule
correct.

Used by: ``Linear`` functions (keys, queries, the normaliser's column), every solver whose memory is
a matrix (what is read and erased, the step), weights that are a recurrence of their own (Bonus, Trapezoid,
ExponentialGate, complex ones). Ridge regression, levels, momentum and the Oja rule share its keys, values and
decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.decay import RESET, with_rates
from ttr.inputs import Inputs, repeat_heads
from ttr.state_tensors import StateTensors


class LinearRecurrence(NamedTuple):
    """S_j = D_j S_{j-1} + step_j (key_j value_j^T - erase_j (S_x^T read_j)^T), j = 1..L, L = T n, and y_t =
    scale S_{tn}^T query_t.

    Letters: B batch, T tokens, n = ``pairs`` per token, H heads, F key size, V value size. One floating
    dtype, float32 or float64; any strides.

        query      [B,T,H,F]
        key        [B,L,H,F]
        value      [B,L,H,V]
        read       [B,L,H,F], or None for an additive memory (no correction)
        erase      [B,L,H,F], or None where it is the key
        step       [B,L,H], or None where it is 1; it multiplies the written pair and the correction alike
        log_decay  [B,L,H] or [B,L,H,F], finite and in [-80, 0] (-80 is a reset), or None without decay
        memory     [B,H,F,V], S_0
        rates      [H,F], by which a log decay [B,L,H] is multiplied, or None; a product below -80 is a reset.
                   Only for engines that lower a call in this way; then log_decay may be of any size

    For the same engines query and key may be [B,T,1,F], those of every head, and a reset -inf.

    S_x is D_j S_{j-1} ("decayed"), or S_{j-1} where ``old``. With ``reads_first`` (n = 1) a token reads
    before it decays and writes: y_t = scale S_{t-1}^T query_t.

    Engines use these fields alone. The others undo the lowering: ``unit`` [B,T,H,1] is the scale of the
    memory at each token, in which the number 1 is stored as ``unit``, ``carried`` are other tensors of the
    state after the call, and the functions ``undo`` are applied last to first.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    read: Tensor | None
    erase: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None
    memory: Tensor
    rates: Tensor | None = None
    pairs: int = 1
    old: bool = False
    reads_first: bool = False
    scale: float = 1.0
    unit: Tensor | float = 1.0
    carried: Mapping[str, Tensor] = {}
    undo: tuple[Undo, ...] = ()

    @property
    def scaled_query(self) -> Tensor:
        """The query times the scale: a new tensor, which kernels avoid."""
        return self.query if self.scale == 1.0 else self.scale * self.query

    def general(self) -> LinearRecurrence:
        """The same without ``rates`` and infinite log decays, and with the queries and keys of every head."""
        heads = self.value.shape[2]
        r = self._replace(query=repeat_heads(self.query, heads), key=repeat_heads(self.key, heads))
        if r.log_decay is None:
            return r
        log_decay = r.log_decay if r.rates is None else with_rates(r.log_decay, r.rates)
        return r._replace(log_decay=log_decay.clamp(min=RESET), rates=None)

    def of_pairs(self, x: Tensor) -> Tensor:
        """A tensor [B,T,...] or [B,T,n,...] of every pair, [B,L,...]."""
        return x if self.pairs == 1 else x.flatten(1, 2)

    def times_step(self, step_size: Tensor) -> Tensor:
        """Steps [B,T,H] or [B,T,n,H] times the step so far, [B,L,H]."""
        step = self.of_pairs(step_size)
        return step if self.step is None else step * self.step

    def then(self, undo: Undo, **changed: object) -> LinearRecurrence:
        """The recurrence with some fields changed, and the function that undoes this after it has run."""
        return self._replace(undo=(*self.undo, undo), **changed)

    def finish(self, x: Inputs, y: Tensor, memory: Tensor, **others: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs [B,T,H,V] and state of the call, from those of the recurrence; ``others`` are further
        tensors of the state that the engine returns."""
        tensors = {"memory": memory}
        for undo in reversed(self.undo):
            y, tensors = undo(self, y, tensors)
        return y, x.state.replace(**tensors, **self.carried, **others, position=x.state.position + x.length)


Undo = Callable[[LinearRecurrence, Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
"""(the recurrence, its read-outs, the tensors of the memory) -> read-outs and tensors before the change."""


def plain(x: Inputs, pairs: int, importance: Tensor | None) -> LinearRecurrence:
    """The recurrence of a call before any component has lowered itself: queries, keys and values of the call,
    with their heads repeated, and ``importance`` [B,T,H] or [B,T,n,H] for the step."""

    def flat(tensor: Tensor) -> Tensor:
        return tensor if pairs == 1 else tensor.flatten(1, 2)

    return LinearRecurrence(
        query=x.grouped(x.q),
        key=flat(x.grouped(x.k)),
        value=flat(x.grouped(x.v)),
        read=None,
        erase=None,
        step=None if importance is None else flat(importance),
        log_decay=_per_pair(x.log_decay, pairs),
        memory=x.state["memory"],
        pairs=pairs,
    )


def plus(channels: Tensor, log_decay: Tensor | None) -> Tensor:
    """A log decay [B,L,H,F] with another one, [B,L,H] or [B,L,H,F], where there is one."""
    if log_decay is None:
        return channels
    return channels + (log_decay if log_decay.ndim == 4 else log_decay[..., None])


def _per_pair(log_decay: Tensor | None, pairs: int) -> Tensor | None:
    """The log decay of every pair: that of the token on its first pair, 0 on the others; resets made
    finite."""
    if log_decay is None:
        return None
    finite = log_decay.clamp(min=RESET)
    if pairs == 1:
        return finite
    others = torch.zeros_like(finite)[:, :, None].expand(-1, -1, pairs - 1, *finite.shape[2:])
    return torch.cat([finite[:, :, None], others], dim=2).flatten(1, 2)
