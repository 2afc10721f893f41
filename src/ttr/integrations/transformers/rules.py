"""transformers' rules of recurrent token mixers, computed by ttr.

Every function here takes the arguments of one of transformers' module-level rules and returns what that
returns, in its layouts; the mathematics is that of the memory of the catalogue it names. Where it returns
NotImplemented, transformers' own is called. transformers computes these rules in float32; float64 stays
float64 here.

While a decode step is recorded (``decoding``), the rules of one token write to the state they are given,
which is the cache's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus
from transformers.activations import ACT2FN

from ttr import catalogue
from ttr.dispatch import memory_step, regress
from ttr.operators import wide
from ttr.operators.rms_norm import rms_norm
from ttr.operators.short_convolution import short_convolution
from ttr.problem import Problem
from ttr.recording import is_recording, kept_whole
from ttr.state import State

Rule = Callable[..., Any]

GATED_DELTA, KDA, MAMBA, MAMBA2 = (
    catalogue[name].problem for name in ("gated-deltanet", "kda", "mamba", "mamba2")
)


BOUNDS = ("cu_seqlens", "cu_seq_lens_q", "seq_idx")
"""transformers' names of arguments that tell where packed sequences begin; the last one numbers tokens."""


def delta_rule(problem: Problem) -> tuple[Rule, Rule]:
    """The rules for a sequence and for few tokens of a gated delta rule: q, k [B,T,Hk,K] and v [B,T,H,V] with
    log decay g and step size beta -> (y [B,T,H,V], the state [B,H,K,V] or None)."""

    def recurrent(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v, g, beta = map(wide, (query, key, value, g, beta))
        if use_qk_l2norm_in_kernel:
            q, k = (rms_norm(x, 1e-6, mean=False) for x in (q, k))
        y, state = memorize(
            problem, (q, k, v), {"log_decay": g, "step_size": beta}, initial_state, output_final_state, kwargs
        )
        return y.to(query.dtype), state

    def chunkwise(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        chunk_size: int = 64,
        *rest: Any,
        **named: Any,
    ) -> tuple[Tensor, Tensor | None]:
        return recurrent(query, key, value, g, beta, *rest, **named)

    return chunkwise, recurrent


def mamba2_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **kwargs: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """The state space of Mamba-2: x [B,T,H,P] with dt [B,T,H], A [H], B and C [B,T,G,N] -> y [B,T,H,P], and
    the state [B,H,P,N] if asked."""
    x, dt = wide(hidden_states), _time_step(dt, dt_bias, dt_softplus).clamp(*dt_limit)
    y, state = memorize(
        MAMBA2,
        (wide(C), wide(B), x * dt[..., None]),
        {"log_decay": wide(A) * dt},
        None if initial_states is None else initial_states.transpose(-1, -2),
        return_final_states,
        kwargs,
    )
    y = y if D is None else torch.addcmul(y, x, wide(D)[:, None])
    # its strides are kept by the cache, so that the rule of one token finds a contiguous memory
    return (y, state.transpose(-1, -2)) if return_final_states else y


def mamba2_update(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **kwargs: object,
) -> Tensor:
    """One token of ``mamba2_scan``: x, dt, dt_bias and D [B,H,P] or [H,P] and A [H,P,N], with the same number
    along P and N; writes to the state [B,H,P,N]."""
    repeated = [x for x in (dt, A, D, dt_bias) if x is not None]
    if any(x.stride(-1) for x in repeated) or A.stride(-2):
        return NotImplemented
    x, dt = (
        wide(hidden_states),
        _time_step(dt[..., 0], None if dt_bias is None else dt_bias[..., 0], dt_softplus),
    )
    y = _advance(
        MAMBA2,
        (wide(C), wide(B), x * dt[..., None]),
        {"log_decay": wide(A[..., 0, 0]) * dt},
        state.transpose(-1, -2),
    )
    y = y if D is None else y + x * wide(D)
    return (y if z is None else y * silu(wide(z))).to(hidden_states.dtype)


def mamba_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **kwargs: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """The state space of Mamba: x, dt and z [B,D,T] with A [D,N] and B, C [B,N,T] -> y [B,D,T], and the state
    [B,D,N] if asked."""
    x, dt = wide(hidden_states.mT), _time_step(dt.mT, delta_bias, delta_softplus)
    y, state = memorize(
        MAMBA,
        (wide(C.mT)[:, :, None], wide(B.mT)[:, :, None], (x * dt)[..., None]),
        {"log_decay": -dt},
        None,
        return_last_state,
        kwargs,
        {"weights.rate": (-wide(A)).log()},
    )
    y = y[..., 0] if D is None else torch.addcmul(y[..., 0], x, wide(D))
    y = (y if z is None else y * silu(wide(z.mT))).mT
    return (y, state[..., 0]) if return_last_state else y


def mamba_update(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **kwargs: object,
) -> Tensor:
    """One token of ``mamba_scan``: x, dt and z [B,D], B and C [B,N]; writes to the state [B,D,N]."""
    x, dt = wide(hidden_states), _time_step(dt, dt_bias, dt_softplus)
    y = _advance(
        MAMBA,
        (wide(C)[:, None], wide(B)[:, None], (x * dt)[..., None]),
        {"log_decay": -dt},
        state[..., None],
        {"weights.rate": (-wide(A)).log()},
    )[..., 0]
    y = y if D is None else y + x * wide(D)
    return (y if z is None else y * silu(wide(z))).to(hidden_states.dtype)


def convolution(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **kwargs: object,
) -> Tensor:
    """The short causal convolution: x [B,C,T] with weights [C,width] -> y [B,C,T]."""
    x, past = hidden_states.mT.to(weight.dtype), weight.shape[-1] - 1
    bounds = bounds_of(kwargs, x.shape[1])
    fused = activation in ("silu", "swish")
    y = short_convolution(
        x,
        x.new_zeros(len(x) if bounds is None else len(bounds) - 1, past, x.shape[2]),
        weight.T.contiguous(),
        bias,
        silu=fused,
        bounds=bounds,
    )
    y = y if fused or activation is None else ACT2FN[activation](y)
    return y.mT.to(hidden_states.dtype)


def convolution_update(
    hidden_states: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """One token of ``convolution``: x [B,C,1]; writes to the state [B,C,past], its last inputs."""
    if hidden_states.shape[-1] != 1:
        return NotImplemented
    inputs = torch.cat([conv_state, hidden_states.to(conv_state.dtype)], dim=-1)
    kept_whole(lambda state, after: (state.copy_(after),), conv_state, inputs[..., 1:])
    y = (wide(inputs[..., -weight.shape[-1] :]) * wide(weight)).sum(-1, keepdim=True)
    y = y if bias is None else y + wide(bias)[:, None]
    return (y if activation is None else ACT2FN[activation](y)).to(hidden_states.dtype)


def _time_step(dt: Tensor, bias: Tensor | None, positive: bool) -> Tensor:
    dt = wide(dt) if bias is None else wide(dt) + wide(bias)
    return softplus(dt) if positive else dt


def memorize(
    problem: Problem,
    sequence: Sequence[Tensor],
    controls: Mapping[str, Tensor],
    memory: Tensor | None,
    wants_memory: bool,
    kwargs: Mapping[str, object],
    params: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """y [B,T,H,V] of q, k, v from a memory, and the memory after them if wanted; a single token by the step
    of the memory."""
    length, bounds = sequence[0].shape[1], bounds_of(kwargs, sequence[0].shape[1])
    if length == 1 and memory is not None and wants_memory and bounds is None and params is None:
        token, own = [x[:, 0] for x in sequence], {name: x[:, 0] for name, x in controls.items()}
        y, memory = _step(problem, token, own, wide(memory), {}, inplace=is_recording())
        return y[:, None], memory
    state = None if memory is None else _state(wide(memory))
    done = regress(
        problem,
        *sequence,
        state=state,
        return_state=wants_memory,
        cu_seqlens=bounds,
        params=params,
        **controls,
    )
    return (done[0], done[1]["memory"]) if wants_memory else (done, None)


def _advance(
    problem: Problem,
    token: Sequence[Tensor],
    controls: Mapping[str, Tensor],
    memory: Tensor,
    params: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """y [B,H,V] of one token, with the memory overwritten."""
    if memory.dtype == torch.promote_types(memory.dtype, torch.float32):
        return _step(problem, token, controls, memory, params or {}, inplace=True)[0]
    y, after = _step(problem, token, controls, wide(memory), params or {}, inplace=False)
    kept_whole(lambda memory, after: (memory.copy_(after),), memory, after)
    return y


def _step(
    problem: Problem,
    token: Sequence[Tensor],
    controls: Mapping[str, Tensor],
    memory: Tensor,
    params: Mapping[str, Tensor],
    inplace: bool,
) -> tuple[Tensor, Tensor]:
    """y [B,H,V] and the memory after one token, ``inplace`` the given one; one call of a recording."""
    advance, names = memory_step(problem, inplace, "auto"), (tuple(controls), tuple(params))

    def step(q: Tensor, k: Tensor, v: Tensor, memory: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        controls, params = dict(zip(names[0], rest)), dict(zip(names[1], rest[len(names[0]) :]))
        y, state = advance((q, k, v), _state(memory), controls, params)
        after = state["memory"]
        return y, memory.copy_(after) if inplace and after is not memory else after

    return kept_whole(step, *token, memory, *controls.values(), *params.values())


def _state(memory: Tensor) -> State:
    return State({"memory": memory}, torch.zeros(len(memory), dtype=torch.int64, device=memory.device))


def bounds_of(kwargs: Mapping[str, object], length: int) -> Tensor | None:
    """The bounds [0, ..., T] of packed sequences that transformers passes on, by any of its names; None
    without any.

    A cache pads a shorter prompt to the width of the convolution at its beginning: that belongs to the first
    sequence."""
    *ends, number = BOUNDS
    bounds = next((kwargs[name] for name in ends if kwargs.get(name) is not None), None)
    numbers = kwargs.get(number)
    if bounds is None and numbers is not None:
        if len(numbers) != 1:
            raise ValueError(
                f"seq_idx numbers the sequences packed in one row, got {len(numbers)} rows. Pack all of them "
                "in one, or pad them."
            )
        changes = (numbers[0].diff() != 0).nonzero()[:, 0] + 1
        ends = changes.new_tensor([0]), changes, changes.new_tensor([numbers.shape[1]])
        bounds = torch.cat(ends)
    if bounds is None:
        return None
    if (
        bounds.ndim != 1
        or len(bounds) < 2
        or bounds[0] != 0
        or bounds[-1] > length
        or (bounds.diff() < 0).any()
    ):
        raise ValueError(
            f"The bounds of packed sequences must rise from 0 to the {length} tokens of the call, got "
            f"{bounds.tolist()}. Use the cumulated lengths, such as [0, 3, 8]."
        )
    return torch.cat([bounds[:1], bounds[1:] + (length - bounds[-1])])
