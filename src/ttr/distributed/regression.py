"""``regress`` for a shard of the sequences.

A memory whose segments have a summary that does not depend on what came before (``segments.no_summary``)
*combines*: every process sums up its tokens, the summaries are gathered, those of earlier processes are
merged in their order, and the shard then runs once, from the state that one process would have there. Other
memories *pass* their state on: a process waits for that of the one before it. Layers overlap then, since a
process that has sent its state goes on with the next layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ttr import dispatch, segments
from ttr.decay import RESET
from ttr.distributed.communication import connected, flat, gather, nothing, receive, send, unflat
from ttr.distributed.shard import SequenceShard
from ttr.engines.engine import Engine
from ttr.forms import Pairs, SecondMoments
from ttr.forms.sums import running_sum
from ttr.inputs import Inputs
from ttr.prepare import check_problem, prepare
from ttr.problem import Problem
from ttr.slots import single, with_slots
from ttr.state import State


def strategy(problem: Problem) -> str:
    """How processes share the sequences of a memory: "combines" summaries, "gathers" stored pairs, or
    "passes" the state on.

    Raises:
        ValueError: if they cannot.
    """
    check_problem(problem)
    if not problem.function.causal:
        raise ValueError(
            f"In {problem.function!r} every token reads the whole sequence, which no process holds. Use "
            "data parallelism, or a causal function such as LocalConstant."
        )
    if segments.no_summary(problem):
        return "passes"
    return "gathers" if issubclass(problem.form, Pairs) else "combines"


def regress(
    problem: Problem,
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T *pairs Hk K"],
    v: Float[Tensor, "B T *pairs Hv V"],
    *,
    shard: SequenceShard,
    params: Mapping[str, Tensor] | None = None,
    return_state: bool = False,
    engine: str | Engine = "auto",
    **controls: Tensor | float,
) -> Float[Tensor, "B T H V"] | tuple[Tensor, State]:
    """As ``ttr.regress`` from an empty state, with q, k, v and the controls of the tokens of this process
    alone (``SequenceShard.cut``). The state is the one after the shard, with a row for each sequence in it.

    Raises:
        ValueError: as ``ttr.regress``, if the tokens are not those of the shard, or if the problem is not
            causal.
    """
    passes = strategy(problem) == "passes"
    bounds = shard.cu_seqlens(q.device)
    x = prepare(problem, q, k, v, params, None, bounds, controls)
    shard.check(x.length)
    call = {"params": params, "cu_seqlens": bounds, "engine": engine, **controls}
    if passes:
        return _passed(problem, (q, k, v), x, shard, return_state, call)
    if not shard.exchanges:
        return dispatch.regress(problem, q, k, v, return_state=return_state, **call)
    with torch.autocast(q.device.type, enabled=False):  # as inside a memory
        state, gathered = _combined(problem, x, shard)
    done = dispatch.regress(problem, q, k, v, state=state, return_state=return_state, **call)
    if return_state:
        return connected(done[0], gathered), done[1]
    return connected(done, gathered)


def _combined(problem: Problem, x: Inputs, shard: SequenceShard) -> tuple[State | None, Tensor]:
    """The state from which this process goes on, None for an empty one, and the summaries of all processes of
    which it is made."""
    tokens = shard.last[shard.rank]
    empty = x.state.select(slice(-1, None)) if shard.packed else x.state
    last = x.tokens(x.length - tokens, x.length, empty)
    summary = _summary(problem, last)
    grows = issubclass(problem.form, Pairs) and problem.weights.window is None
    summary = with_slots(summary, max(shard.last)) if grows else summary
    decay = None if last.log_decay is None else last.log_decay.sum(1)
    gathered = gather(flat(*summary.tensors.values(), *(() if decay is None else (decay,))), shard.group)
    entering = None
    for process in shard.earlier:
        tensors, rest = unflat(gathered[process], list(summary.tensors.values()))
        state = _after(shard.last[process], summary, tensors)
        state = with_slots(state, shard.last[process]) if grows else state
        over = None if decay is None else rest.view_as(decay)
        entering = state if entering is None else segments.merged(problem, entering, state, over)
    return None if entering is None else _with_first(x.state, entering), gathered


def _summary(problem: Problem, x: Inputs) -> State:
    """The state after the tokens of x, which begins empty, without their read-outs."""
    if issubclass(problem.form, Pairs):
        return problem.form.begin(x, problem.weights.window).state
    form = problem.lower(x)
    if isinstance(form, SecondMoments):
        key = _decayed(form.key, form.log_decay)
        if form.log_importance is not None:
            key = form.log_importance.exp()[..., None] * key
        return form.finish(x, x.q, _products(key, form.key), _products(key, form.value))[1]
    form = form.general()
    key = _decayed(form.key, form.log_decay)
    key = key if form.step is None else form.step[..., None] * key
    unread = form.value[:, :0]
    return form.finish(x, unread, _products(key, form.value))[1]


def _decayed(
    key: Float[Tensor, "B L H F"], log_decay: Float[Tensor, "B L H *channels"] | None
) -> Float[Tensor, "B L H F"]:
    """The keys as all later pairs decay them."""
    if log_decay is None:
        return key
    # a sum from the end, since a difference of two sums loses the digits of the newest
    later = log_decay.clamp(min=RESET)[:, 1:].flip(1).movedim(1, -1)
    decay = pad(running_sum(later), (1, 0)).movedim(-1, 1).flip(1).exp()
    return (decay if decay.ndim == 4 else decay[..., None]) * key


def _products(key: Float[Tensor, "B L H F"], value: Float[Tensor, "B L H V"]) -> Float[Tensor, "B H F V"]:
    """The sum of the outer products of all pairs."""
    return torch.einsum("blhf,blhv->bhfv", key, value)


def _passed(
    problem: Problem,
    qkv: tuple[Tensor, Tensor, Tensor],
    x: Inputs,
    shard: SequenceShard,
    return_state: bool,
    call: Mapping[str, object],
) -> Tensor | tuple[Tensor, State]:
    """The shard from the state of the process before it, which then sends its own to the next."""
    # by which both sides of a message know whether a gradient comes back
    inputs = nothing(x.q, x.k, x.v, *x.controls.values(), *x.params.values())
    state = _received(problem, x, inputs, shard) if shard.earlier else None
    wanted = return_state or shard.passes_on
    done = dispatch.regress(problem, *qkv, state=state, return_state=wanted, **call)
    y, after = done if wanted else (done, None)
    if shard.passes_on:
        last = single(after, len(after.position) - 1, problem.weights.window) if shard.packed else after
        y = connected(y, send([last[name] for name in x.state], inputs, shard.group, shard.rank + 1))
    return (y, after) if return_state else y


def _received(problem: Problem, x: Inputs, inputs: Float[Tensor, " 0"], shard: SequenceShard) -> State:
    """The state from which this process goes on, from the one before it."""
    like = x.state.select(slice(0, 1)) if shard.packed else x.state
    if issubclass(problem.form, Pairs) and problem.weights.window is None:
        like = with_slots(like, shard.before)
    tensors = receive(list(like.tensors.values()), inputs, shard.group, shard.rank - 1)
    return _with_first(x.state, _after(shard.before, like, tensors))


def _after(tokens: int, like: State, tensors: Sequence[Tensor]) -> State:
    """The state of ``tokens`` tokens with these tensors, in the order of ``like``."""
    return like.replace(**dict(zip(like, tensors)), position=torch.full_like(like.position, tokens))


def _with_first(empty: State, first: State) -> State:
    """The states of all sequences, of which only the first, or every row of a batch, has begun."""
    rows = len(first.position)
    return first if rows == len(empty.position) else State.cat([first, empty.select(slice(rows, None))])
