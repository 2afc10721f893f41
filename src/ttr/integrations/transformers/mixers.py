"""Recurrent token mixers of transformers without a rule in common, computed by ttr.

Each function here is, with ``self`` first, a method that computes the recurrence of one class, or a function
of one model. As in ``rules``, the mathematics is that of the memory of the catalogue it names, numbers are
float32 or wider, and NotImplemented leaves a call to transformers: so for single tokens, of which
transformers' few operations make less work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ttr import catalogue
from ttr.integrations.transformers.rules import MAMBA2, memorize
from ttr.operators import wide

RG_LRU = catalogue["rg-lru"].problem

VANISHED = -80.0
"""A log decay after which nothing is left in float32 of what came before."""


def gated_scan(
    self: nn.Module,
    hidden_states: Tensor,
    recurrent_gate: Tensor,
    reset: Tensor,
    recurrent_states: Tensor | None,
    acc_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The RG-LRU's h_t = a_t h_{t-1} + x_t ("rg-lru"): x and a [B,T,W], a reset [B,T,1] where a sequence
    begins, h_0 [B,W] -> (h [B,T,W], the last one [B,W])."""
    if hidden_states.shape[1] == 1:
        return NotImplemented
    x, gate = wide(hidden_states), wide(recurrent_gate)
    # a gate that underflows has no logarithm, and no derivative either
    decay = gate.clamp(min=torch.finfo(gate.dtype).tiny).log().masked_fill(reset, -torch.inf)
    one = x.new_ones(()).expand(*x.shape, 1)
    memory = None if recurrent_states is None else recurrent_states[..., None, None]
    h, memory = memorize(RG_LRU, (one, one, x[..., None]), {"log_decay": decay}, memory, True, {})
    return h[..., 0].to(hidden_states.dtype), memory[..., 0, 0]


def lightning_attention(
    self: nn.Module,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """MiniMax' lightning attention with its projections and norm ("lightning-attention"): x [B,T,D] -> (y
    [B,T,D], the state [B,H,K,V])."""
    if hidden_states.shape[1] == 1:
        return NotImplemented
    qkv = self.act_fn(self.qkv_proj(hidden_states))
    if attention_mask is not None:  # padding writes nothing
        qkv = (qkv * attention_mask[:, :, None]).to(qkv.dtype)
    q, k, v = qkv.unflatten(-1, (self.num_attention_heads, 3, self.head_dim)).unbind(-2)
    memory = None if past_key_values is None else past_key_values.get_linear_cache(self.layer_idx)
    decay = -wide(self.slope_rate).flatten().expand(*q.shape[:3])
    y, memory = memorize(MAMBA2, (wide(q), wide(k), wide(v)), {"log_decay": decay}, memory, True, kwargs)
    y, memory = y.to(v.dtype), memory.to(v.dtype)
    y = self.output_gate(hidden_states).sigmoid() * self.norm(y.flatten(-2))
    if past_key_values is not None:
        past_key_values.set_linear_cache(self.layer_idx, memory)
    return self.out_proj(y), memory


def mlstm(
    self: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    igate: Tensor,
    fgate: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool | None = None,
    mode: str | None = None,
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The mLSTM ("mlstm", arXiv 2405.04517): q, k [B,H,T,K], v [B,H,T,V] and gates before their activations
    [B,H,T] -> h [B,H,T,V], and the states (c [B,H,K,V], n [B,H,K], m [B,H,1]) if asked.

    m is the running maximum of the log weights, in whose units the states are. So are the floor of the
    divisor and its addend eps, which depends on them: the memory of the catalogue has none.
    """
    if query.shape[2] == 1:
        return NotImplemented
    mode = self.config.mode if mode is None else mode
    if return_last_states is None:
        return_last_states = self.config.return_last_states
    wants_states = return_last_states or "inference" in mode
    if not ("inference" in mode or "train" in mode) or (wants_states and mode == "train_with_padding"):
        return NotImplemented
    weight, decay, m = _in_units_of_the_maximum(igate, logsigmoid(wide(fgate)), m_initial)
    q, k, v = (wide(x.transpose(1, 2)) for x in (query, key, value))
    v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1) * weight.transpose(1, 2)[..., None]
    memory = None if c_initial is None else torch.cat([c_initial, n_initial[..., None]], dim=-1)
    controls = {"log_decay": decay.transpose(1, 2)}
    y, memory = memorize(MAMBA2, (q * q.shape[-1] ** -0.5, k, v), controls, memory, wants_states, {})
    total = y[..., -1:].transpose(1, 2)
    floor = torch.exp(-m)[..., None]
    h = y[..., :-1].transpose(1, 2) / (torch.maximum(total.abs(), floor) + self.config.eps)
    h = h.to(query.dtype)
    return (h, (memory[..., :-1], memory[..., -1], m[..., -1:])) if wants_states else h


def wkv(
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: tuple[Tensor, Tensor, Tensor] | None = None,
    return_state: bool = False,
) -> tuple[Tensor, list[Tensor] | tuple[Tensor, Tensor, Tensor] | None]:
    """RWKV-4's normalised sum (arXiv 2305.13048): decay and bonus [C], k and v [B,T,C] -> (y [B,T,C], the
    states [numerator, divisor, running maximum], each [B,C], if asked or given)."""
    if key.shape[1] == 1:
        return NotImplemented
    k, v = wide(key), wide(value)
    start = k.new_zeros(k[:, 0].shape), k.new_zeros(k[:, 0].shape), k.new_full(k[:, 0].shape, -1e38)
    numerator, divisor, maximum = start if state is None else map(wide, state)
    decay = -wide(time_decay).exp()[:, None].expand(k.mT.shape)
    weight, decay, m = (x.mT for x in _in_units_of_the_maximum(k.mT, decay, maximum[..., None]))
    one, pair = k.new_ones(()).expand(*k.shape, 1), torch.stack([v, torch.ones_like(v)], dim=-1)
    memory = torch.stack([numerator, divisor], dim=-1)[..., None, :]
    sums, last = memorize(
        RG_LRU, (one, one, pair * weight[..., None]), {"log_decay": decay}, memory, True, {}
    )
    # a token reads what came before it, and itself with the bonus
    before = torch.cat([memory[:, None, :, 0], sums[:, :-1]], dim=1)
    m_before, own = torch.cat([maximum[:, None], m[:, :-1]], dim=1), k + wide(time_first)
    unit = torch.maximum(m_before, own)
    read = before * (m_before - unit).exp()[..., None] + pair * (own - unit).exp()[..., None]
    y = (read[..., 0] / read[..., 1]).to(key.dtype)
    wanted = return_state or state is not None
    return y, [last[..., 0, 0], last[..., 0, 1], m[:, -1]] if wanted else state


def _in_units_of_the_maximum(
    log_weight: Tensor, log_decay: Tensor, maximum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of the pairs and the log decays [...,T] of sums in units of exp(m), and m [...,T],
    m_t = max(m_{t-1} + log decay, log weight), from a ``maximum`` [...,1] before, or 0."""
    weight, decay = log_weight.double(), log_decay.double()  # sums over all tokens are subtracted
    before = torch.zeros_like(weight[..., :1]) if maximum is None else maximum.double()
    total = decay.cumsum(-1)
    m = total + torch.maximum(before, (weight - total).cummax(-1).values)
    relative = (decay + torch.cat([before, m[..., :-1]], dim=-1) - m).clamp(VANISHED, 0.0)
    return (weight - m).exp().to(log_decay.dtype), relative.to(log_decay.dtype), m.to(log_decay.dtype)
