"""From a call to the linear recurrence it stands for, the form that the linear engines share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad, relu

from ttr.forms import rotation
from ttr.forms.linear_recurrence import Recurrence
from ttr.forms.preconditioner import precondition
from ttr.inputs import Inputs
from ttr.problem import RESET, Problem
from ttr.state import State


@dataclass(frozen=True)
class LinearForm:
    """S_j = D_j S_{j-1} + step_j (key_j value_j^T - erase_j (S_x^T read_j)^T) for pairs j = 1..L, L = T n,
    and y_t = S_{tn}^T query_t.

    Letters: L pairs, T tokens. query [B,T,H,F], which is ``scale`` times ``plain_query``; key, read and erase
    [B,L,H,F], value [B,L,H,V], step [B,L,H] (1 if absent), log_decay [B,L,H] or [B,L,H,F], finite (a reset is
    ``RESET``, which leaves 2e-35 of the past). ``read`` is None for an additive memory, ``erase`` None where
    it is the key. With a normalised read-out ``value`` has a last column of ones. With ``bonus`` [H,F] the
    memory is read before it decays and is written, and y_t = (S + (bonus * key_t) value_t^T)^T query_t.
    ``unit`` [B,T,H,1] is what 1 is worth in the units of the memory at each token, ``carried`` what else of
    the state the call leaves.
    """

    plain_query: Tensor
    key: Tensor
    value: Tensor
    read: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None
    gradient_at: str | None
    pairs: int
    erase: Tensor | None = None
    bonus: Tensor | None = None
    unit: Tensor | float = 1.0
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0

    @property
    def query(self) -> Tensor:
        """The query as it meets the memory; a new tensor at every call, which ``recurrence`` does without."""
        return self.plain_query if self.scale == 1.0 else self.scale * self.plain_query

    def recurrence(self, memory: Tensor) -> Recurrence:
        """What is left to run from ``memory`` [B,H,F,V]; the bonus of a token's own pair comes on top of its
        read-outs."""
        return Recurrence(
            self.plain_query,
            self.key,
            self.value,
            self.read,
            self.erase,
            self.step,
            self.log_decay,
            memory,
            self.pairs,
            self.gradient_at == "old",
            self.bonus is not None,
            self.scale,
        )


def linear_form(problem: Problem, x: Inputs) -> LinearForm:
    """The recurrence of a problem whose memory is a matrix; ridge problems share its keys, values and
    decay."""
    function, pairs = problem.function, problem.solver.pairs_per_token
    params = x.axis_params("function")

    def flat(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or pairs == 1 else tensor.flatten(1, 2)

    key = flat(function.key(x.grouped(x.k), params))
    value = flat(x.grouped(x.v) * x.controls["write"] if "write" in x.controls else x.grouped(x.v))
    if function.normalized:
        value = pad(value, (0, 1), value=1.0)
    read = None if problem.solver.gradient_at is None else key
    if "read_key" in x.controls:
        read = flat(function.key(x.controls["read_key"], params))
    erase = flat(function.key(x.controls["erase_key"], params)) if "erase_key" in x.controls else None
    key, carried = precondition(problem, x, key) if problem.solver.preconditioned else (key, {})
    step, log_decay = None, _per_pair(x.log_decay, pairs)
    if "step_size" in x.controls:
        step = (
            x.controls["step_size"]
            if x.log_importance is None
            else x.controls["step_size"] * x.log_importance.exp()
        )
        own = problem.solver.log_retention(flat(step), key)
        log_decay = log_decay if own is None else _plus(own, log_decay)
        step = problem.solver.effective_step(flat(step), key, x.axis_params("solver"))
    elif x.log_importance is not None and not problem.weights.running_maximum:
        step = flat(x.log_importance).exp()
    scale = function.plain_scale(x.q.shape[-1])
    query = function.query(x.grouped(x.q), params) if scale is None else x.grouped(x.q)
    if x.phase is not None:
        cos, sin = rotation.frame(x)
        if problem.weights.complex_values:
            value = rotation.turn(value, cos, -sin)
        else:
            query, key = (rotation.double(part, cos, sin) for part in (query, key))
            log_decay = (
                log_decay
                if log_decay is None or log_decay.ndim == 3
                else torch.cat([log_decay, log_decay], dim=-1)
            )
    form = LinearForm(
        query,
        key,
        value,
        read,
        step,
        log_decay,
        problem.solver.gradient_at,
        pairs,
        erase,
        carried=carried,
        scale=1.0 if scale is None else scale,
    )
    if problem.weights.reads_first:
        return replace(form, bonus=x.axis_params("weights")["bonus"])
    if problem.weights.writes_previous:
        return _with_previous(x, form)
    return _rescaled(x, form) if problem.weights.running_maximum else form


def _with_previous(x: Inputs, form: LinearForm) -> LinearForm:
    """Two pairs per token: that of the token before, ahead of the decay, then its own; they share its
    importance."""
    share = torch.stack([1 - x.controls["trapezoid"], x.controls["trapezoid"]], dim=2)
    past_value = x.state["previous_value"]
    # the normaliser's ones
    past_value = pad(past_value, (0, form.value.shape[-1] - past_value.shape[-1]), value=1.0)
    keys = torch.cat([x.state["previous_key"][:, None], form.key], dim=1)
    values = torch.cat([past_value[:, None], form.value], dim=1)
    key, value = (torch.stack([pair[:, :-1], pair[:, 1:]], dim=2).flatten(1, 2) for pair in (keys, values))
    log_decay = torch.stack([torch.zeros_like(form.log_decay), form.log_decay], dim=2).flatten(1, 2)
    carried = {"previous_key": keys[:, -1], "previous_value": values[:, -1, :, : x.v.shape[-1]]}
    return replace(
        form,
        key=key,
        value=value,
        step=(share * form.step[:, :, None]).flatten(1, 2),
        log_decay=log_decay,
        pairs=2,
        carried=carried,
    )


def _rescaled(x: Inputs, form: LinearForm) -> LinearForm:
    """The form of the memory divided by exp(m_t), m_t = max(g_t + m_{t-1}, i_t, 0) for log decays g and log
    importances i.

    In these units the token forgets g_t + m_{t-1} - m_t <= 0 and writes i_t - m_t <= 0, so it is an ordinary
    form again. All m come
    from a scan by doubling: x -> max(a + x, b) after x -> max(a' + x, b') is x -> max(a + a' + x, max(a + b',
    b)), which subtracts nothing and so takes resets as they are.
    """
    wide = x.q.dtype if x.q.device.type == "mps" else torch.float64
    decay, importance, start = (log.to(wide) for log in (x.log_decay, x.log_importance, x.state["log_scale"]))
    total, top, reach = decay, importance, 1
    while reach < x.length:
        earlier = pad(top, (0, 0, reach, 0), value=-torch.inf)[:, : x.length]
        top, total = torch.maximum(total + earlier, top), total + pad(total, (0, 0, reach, 0))[:, : x.length]
        reach *= 2
    scale = torch.cat([start[:, None], relu(torch.maximum(total + start[:, None], top))], dim=1)
    log_decay, log_step = decay + scale[:, :-1] - scale[:, 1:], importance - scale[:, 1:]
    # a divisor below this is rounding, and eps times the unit must not become 0
    tiny = torch.finfo(x.q.dtype).tiny ** 0.5
    unit = (-scale[:, 1:]).exp().to(x.q.dtype).clamp(min=tiny)[..., None]
    # rounding above 0 goes; at 0 some versions of clamp have no gradient
    log_decay = (log_decay - relu(log_decay)).clamp(min=RESET)
    return replace(
        form,
        log_decay=log_decay.to(x.q.dtype),
        step=log_step.exp().to(x.q.dtype),
        unit=unit,
        carried={"log_scale": scale[:, -1].to(x.q.dtype)},
    )


def _plus(channels: Tensor, log_decay: Tensor | None) -> Tensor:
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


def widen_state(problem: Problem, x: Inputs) -> Tensor:
    """The memory [B,H,F,V], with the normaliser as a last column where there is one."""
    memory = x.state["memory"]
    memory = (
        torch.cat([memory, x.state["normalizer"][..., None]], dim=-1)
        if problem.function.normalized
        else memory
    )
    return memory if x.phase is None else rotation.enter(problem, x, memory)


def finish(
    problem: Problem, x: Inputs, y: Tensor, memory: Tensor, form: LinearForm, **others: Tensor
) -> tuple[Tensor, State]:
    """Read-outs and state from the recurrence's: divide by the last column where the read-out is normalised.
    ``others`` are the state's tensors that the engine knows of beside ``form``."""
    y, parts = (y, {"": memory}) if x.phase is None else rotation.leave(problem, x, y, memory)
    tensors = {f"{part}memory": memory for part, memory in parts.items()}
    if problem.function.normalized:
        y = problem.function.ratio(y[..., :-1], y[..., -1:], form.unit)
        tensors = {f"{part}memory": memory[..., :-1] for part, memory in parts.items()}
        tensors |= {f"{part}normalizer": memory[..., -1] for part, memory in parts.items()}
    tensors |= {**form.carried, **others}
    return y, x.state.replace(**tensors, position=x.state.position + x.length)
