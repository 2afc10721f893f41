"""The tensors of one call, checked and normalised by ``prepare``, for the oracle and for every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttr import values
from ttr.component import axis_params
from ttr.decay import with_rates
from ttr.recording import is_recording
from ttr.state_tensors import StateTensors
from ttr.torch_internals import is_transformed

PER_TOKEN = ("q", "k", "v", "log_retention", "log_importance", "phase")
"""The fields of a call with a time axis, None where it lacks them."""


@dataclass(frozen=True)
class Inputs:
    """A checked call. All floating tensors have the working dtype (float32 or wider); heads are as given for
    q, k, v.

    With several pairs per token k is [B,T,n,Hk,K] and v [B,T,n,Hv,V]. ``log_decay`` and ``log_importance``
    come from the weights, broadcast to [B,T,H], [B,T,H,K] or [B,T,n,H]; -inf in ``log_decay`` is a reset.
    ``phase`` is the angle by which a complex memory rotates at each token. ``controls`` holds the others,
    ridge broadcast to [H,F]. With ``owns_state`` the tensors of ``state`` may be overwritten; without
    ``wants_state`` the state after the call is not used and may be anything.

    Where the log decay is a product of ``log_retention`` [B,T,H] and ``rates`` [H,K], it is computed at every
    access; for all tokens it may be large, so restrict the call to some of them first.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_retention: Tensor | None
    log_importance: Tensor | None
    controls: Mapping[str, Tensor]
    params: Mapping[str, Tensor]
    state: StateTensors
    heads: int
    out_dtype: torch.dtype
    wants_grad: bool
    rates: Tensor | None = None
    phase: Tensor | None = None
    owns_state: bool = False
    wants_state: bool = True

    @property
    def log_decay(self) -> Tensor | None:
        """The log decay, [B,T,H] or [B,T,H,K]."""
        return self.log_retention if self.rates is None else with_rates(self.log_retention, self.rates)

    @property
    def own_log_weight(self) -> Tensor:
        """Log weight of every pair at its own token, [B,T,H]; 0 without importances."""
        return (
            self.q.new_zeros(*self.q.shape[:2], self.heads)
            if self.log_importance is None
            else self.log_importance
        )

    @property
    def length(self) -> int:
        return self.q.shape[1]

    def tokens(self, start: int, stop: int, state: StateTensors) -> Inputs:
        """The call restricted to tokens start..stop, from ``state``."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, start:stop]

        controls = {name: x if name == "ridge" else cut(x) for name, x in self.controls.items()}
        return dataclasses.replace(
            self,
            q=cut(self.q),
            k=cut(self.k),
            v=cut(self.v),
            log_retention=cut(self.log_retention),
            log_importance=cut(self.log_importance),
            phase=cut(self.phase),
            controls=controls,
            state=state,
        )

    def split(self, size: int | list[int]) -> list[Inputs]:
        """The call in blocks of ``size`` tokens, at least one block, or of those sizes, all with the call's
        own state.

        The backward pass concatenates the blocks' gradients once; with ``tokens`` in a loop it would be
        quadratic in T."""
        count = max(1, -(-self.length // size)) if isinstance(size, int) else len(size)
        pieces = {name: x.split(size, dim=1) for name in PER_TOKEN if (x := getattr(self, name)) is not None}
        controls = {
            name: (x,) * count if name == "ridge" else x.split(size, dim=1)
            for name, x in self.controls.items()
        }
        return [
            dataclasses.replace(
                self,
                controls={name: parts[i] for name, parts in controls.items()},
                **{name: parts[i] for name, parts in pieces.items()},
            )
            for i in range(count)
        ]

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same call in another working dtype."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = {name: x.to(dtype) for name, x in fields.items() if isinstance(x, Tensor)}
        controls, params = (
            {name: x.to(dtype) for name, x in group.items()} for group in (self.controls, self.params)
        )
        return dataclasses.replace(
            self, controls=controls, params=params, state=self.state.to(dtype), owns_state=False, **changed
        )

    def after(self, state: StateTensors) -> Inputs:
        """The same call from another state."""
        return dataclasses.replace(self, state=state)

    def axis_params(self, axis: str) -> dict[str, Tensor]:
        """The params of one axis ("weights", "function", "solver"), without the prefix."""
        return axis_params(self.params, axis)

    def grouped(self, x: Float[Tensor, "*lead h d"]) -> Float[Tensor, "*lead H d"]:
        """Keys, values or queries with their heads repeated to the full number: head h of H uses h // (H /
        heads of x)."""
        return repeat_heads(x, self.heads)


def within_graph(y: Tensor, x: Inputs) -> Tensor:
    """The output of a call. An empty one is connected to the inputs, so that a backward pass through it gives
    them gradients of zero."""
    if not x.wants_grad or y.numel():
        return y
    return y + sum(
        0 * t.sum()
        for t in (x.q, x.k, x.v, *x.controls.values(), *x.params.values(), *x.state.tensors.values())
    )


def repeat_heads(x: Float[Tensor, "*lead h d"], heads: int) -> Float[Tensor, "*lead H d"]:
    """Repeat every entry of the second-last axis, so that it has ``heads`` entries; a view of a single
    one."""
    if x.shape[-2] == 1:
        return x.expand(*x.shape[:-2], heads, x.shape[-1])
    return x if x.shape[-2] == heads else x.repeat_interleave(heads // x.shape[-2], dim=-2)


def checks_values(x: Tensor) -> bool:
    """Whether a call with such a tensor checks values: not where that would break a graph, or stall the
    device."""
    return not needs_composite() and values.wanted(x.device)


def needs_composite() -> bool:
    """Whether a call must consist of torch's own operations: under torch.compile, a functorch transform, or
    while it is recorded."""
    return torch.compiler.is_compiling() or is_transformed() or is_recording()
