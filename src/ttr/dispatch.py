"""Which engine runs a call, and why the others do not: regress, step, plan, explain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttr import packed, recorded_step
from ttr.diagnostics import collecting
from ttr.engines import ENGINES
from ttr.engines.engine import Engine
from ttr.engines.native import library
from ttr.engines.sources import BoundSequence
from ttr.engines.specialised_step import BoundStep
from ttr.inputs import Inputs, checks_values, needs_composite, within_graph
from ttr.one_token import overwrite, prepare_token
from ttr.prepare import check_streaming, prepare
from ttr.problem import Problem
from ttr.state import State, writable
from ttr.torch_internals import is_transformed, watched
from ttr.values import check_tensor, suspicious, vouch


def regress(
    problem: Problem,
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T *pairs Hk K"],
    v: Float[Tensor, "B T *pairs Hv V"],
    *,
    params: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    return_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    engine: str | Engine = "auto",
    **controls: Tensor | float,
) -> Float[Tensor, "B T H V"] | tuple[Tensor, State]:
    """Memorise the pairs (k, v) and retrieve with the queries q, causally: y_t sees the pairs of tokens 1..t.

    Args:
        q, k, v: [B,T,heads,channels]; each head count divides the largest, H (head h uses head h //
            (H/heads)). A solver with n pairs per token takes k [B,T,n,Hk,K] and v [B,T,n,Hv,V].
        params: the tensors the problem declares (``ttr.init_params``), by name.
        state: where to continue; None starts empty. It is never changed.
        return_state: also return the state after the last token.
        cu_seqlens: boundaries [0, ..., T] of sequences packed along time (B = 1); the state then has one row
            each.
        engine: "auto", or the one that must run (its name, or an ``Engine``).
        controls: the per-token inputs the problem declares (``problem.controls()``).

    Returns:
        y [B,T,H,V] in the promoted dtype of q, k, v; with ``return_state`` also the State.

    Raises:
        ValueError: on wrong shapes, dtypes, names or values, or when a named engine cannot run; the sentence
            says what to do.
    """
    plain = cu_seqlens is None and _is_plain(problem, q, k, v, engine) and _is_nothing(params)
    if plain and q.ndim == 4:
        call = (problem, q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, library.available())
        if call not in _SEQUENCES and not needs_composite():
            _SEQUENCES[call] = _bound_sequence(problem, q, k, v, params, state, controls)
        bound = _SEQUENCES.get(call)
        if bound is not None and (done := bound(q, k, v, state, controls)):
            return done if return_state else done[0]
    x = replace(
        prepare(problem, q, k, v, params, writable(state), cu_seqlens, controls), wants_state=return_state
    )
    check_streaming(problem, return_state or state is not None)
    chosen = choose(problem, x, engine)
    with _exact_arithmetic(x):
        y, state = (
            chosen.run(problem, x)
            if cu_seqlens is None
            else packed.run(chosen.run, problem, x, cu_seqlens.tolist())
        )
    # without tokens the new state is the caller's own
    state = state if x.length or not return_state else state.clone()
    y = within_graph(y.to(x.out_dtype), x)
    return (y, state) if return_state else y


def step(
    problem: Problem,
    q: Float[Tensor, "B Hq K"],
    k: Float[Tensor, "B *pairs Hk K"],
    v: Float[Tensor, "B *pairs Hv V"],
    state: State | None,
    *,
    params: Mapping[str, Tensor] | None = None,
    inplace: bool = False,
    engine: str | Engine = "auto",
    **controls: Tensor | float,
) -> tuple[Float[Tensor, "B H V"], State]:
    """One token: as ``regress`` without the time axis. With ``inplace`` the new state is written into the
    tensors of ``state``, if their shapes and dtypes do not change, no gradients are wanted and they were not
    made in an inference mode that has ended; the returned state is always the new one. A state of None starts
    empty.

    Raises:
        ValueError: as ``regress``; the state is then unchanged.
    """
    params = {} if params is None else params
    plain = type(state) is State and type(params) is dict and _is_plain(problem, q, k, v, engine)
    call = _kind_of_step(problem, inplace, q, k, v) if plain else None
    bound = _STEPS.get(call) if plain else None  # a graph is guarded by every table that its call reads
    if bound is not None and (done := bound(q, k, v, state, controls, params)):
        return done
    state = writable(state)
    x = prepare_token(problem, q, k, v, state, params, inplace, controls)
    chosen = choose(problem, x, engine)
    if plain and bound is None and not x.wants_grad and not watched((q, k, v)):
        bound = _bound_step(problem, chosen, x, (q, k, v, state, controls, params), inplace)
        _STEPS[call] = bound
        if done := bound(q, k, v, state, controls, params):  # so that the same call gives the same numbers
            return done
    with _exact_arithmetic(x):
        y, new = chosen.step(problem, x)
    if x.owns_state:
        new = overwrite(state, new)
    if checks_values(x.q) and not suspicious(y):
        for tensor in new.tensors.values():
            vouch(tensor)
    return y[:, 0].to(x.out_dtype), new


def memory_step(problem: Problem, inplace: bool, engine: str | Engine) -> MemoryStep:
    """``step`` for many tokens of one kind: what the first one has bound takes the others."""
    bound: BoundStep | None = None

    def advance(
        token: Sequence[Tensor], state: State, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        nonlocal bound
        if bound is not None and (done := bound(*token, state, controls, params)):
            return done
        done = step(problem, *token, state, params=params, inplace=inplace, engine=engine, **controls)
        binds = engine == "auto" and not torch.compiler.is_compiling()
        bound = _STEPS.get(_kind_of_step(problem, inplace, *token)) if binds else None
        return done

    return advance


def _kind_of_step(problem: Problem, inplace: bool, q: Tensor, k: Tensor, v: Tensor) -> tuple[object, ...]:
    machine = torch.get_num_threads(), library.available()
    return problem, inplace, q.shape, k.shape, v.shape, q.dtype, machine


class Bound(dict):
    """A thread-safe cache of bound calls, by which further calls of a kind skip most of the checks; it is
    cleared at ``most`` entries."""

    most = 64
    _adding = threading.Lock()

    def __setitem__(self, call: tuple[object, ...], bound: object) -> None:
        with self._adding:  # otherwise two threads could exceed the limit
            if len(self) >= self.most:
                self.clear()
            super().__setitem__(call, bound)


_STEPS, _SEQUENCES = Bound(), Bound()

MemoryStep = Callable[
    [Sequence[Tensor], State, Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Tensor, State]
]
"""((q, k, v) of one token, state, controls, params) -> (y [B,H,V], state)."""


def _is_plain(problem: object, q: object, k: object, v: object, engine: object) -> bool:
    """Whether a call may have been bound: plain tensors on the CPU, no named engine, not compiled, and no
    diagnostics, which a replay would not report."""
    if not (type(q) is type(k) is type(v) is Tensor and isinstance(problem, Problem)):
        return False
    if q.is_nested or k.is_nested or v.is_nested or not q.is_cpu or torch.compiler.is_compiling():
        return False
    return type(engine) is str and engine == "auto" and not collecting()


def _is_nothing(params: object) -> bool:
    return params is None or type(params) is dict and not params


def _bound_step(
    problem: Problem,
    engine: Engine,
    x: Inputs,
    call: tuple[Tensor, Tensor, Tensor, State, Mapping[str, Tensor | float], Mapping[str, Tensor]],
    inplace: bool,
) -> BoundStep:
    """A step for tokens like that of ``x``, made by ``call``: the engine's, or a recording, or none, which
    leaves every token to the general path."""
    return (
        engine.bind_step(problem, replace(x, owns_state=inplace))
        or recorded_step.bind(problem, engine, *call, inplace)
        or (lambda *call: None)
    )


@torch.no_grad()  # a checkpoint compares what a call saves with what its repetition saves, which is bound
def _bound_sequence(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: Mapping[str, Tensor] | None,
    state: State | None,
    controls: Mapping[str, Tensor | float],
) -> BoundSequence | None:
    """What takes sequences like this one, or none, which leaves them to the general path."""
    x = prepare(problem, q, k, v, params, writable(state), None, controls)
    chosen = choose(problem, x)
    return chosen.bind(problem, x) if x.length <= chosen.most_bound else None


def _exact_arithmetic(x: Inputs) -> torch.autocast:
    """No autocast inside a memory: its products accumulate in float32 or wider also under a caller's
    autocast."""
    return torch.autocast(x.q.device.type, enabled=False)


def plan(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    params: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    cu_seqlens: Tensor | None = None,
    return_state: bool = False,
    engine: str | Engine = "auto",
    inplace: bool = False,
    **controls: Tensor | float,
) -> Callable[..., object]:
    """The choice that ``regress`` makes for such a call, bound: a callable with its signature, less the
    problem.

    Calls are checked, but the engine is not chosen again: for hot loops with one shape. Short sequences of
    plain linear memories go straight to the compiled kernel. For a single token, q [B,H,K], ``step`` is
    bound: ``run(q, k, v, state, **controls) -> (y, state)``, with ``inplace`` as there. A decode step whose
    tensors need no conversion is checked only for shapes, dtypes and values; any call that was not planned
    falls back to ``step``. ``torch.compile(run)`` fuses a decode step into one kernel, also in place, without
    checks of values.

    Raises:
        ValueError: as ``regress`` and ``step``.
    """
    check_tensor("q", q)
    if q.ndim == 3:
        return _plan_step(problem, q, k, v, inplace, state, params, engine, controls)
    if inplace:
        raise ValueError(
            "inplace is for single tokens, q [batch, heads, channels], got shape "
            f"{tuple(q.shape)}. Leave it out."
        )
    x = prepare(problem, q, k, v, params, state, cu_seqlens, controls)
    chosen = choose(problem, x, engine)
    bound = chosen.bind(problem, x) if cu_seqlens is None and _is_nothing(params) else None

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        params: Mapping[str, Tensor] | None = None,
        state: State | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = return_state,
        engine: str | Engine = chosen,
        **controls: Tensor | float,
    ) -> Tensor | tuple[Tensor, State]:
        plain = engine is chosen and cu_seqlens is None and _is_nothing(params)
        if plain and bound is not None and not torch.compiler.is_compiling():
            if done := bound(q, k, v, state, controls):
                return done if return_state else done[0]
        settings = {"params": params, "state": state, "cu_seqlens": cu_seqlens, "return_state": return_state}
        return regress(problem, q, k, v, engine=engine, **settings, **controls)

    return run


def _plan_step(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inplace: bool,
    state: State | None,
    params: Mapping[str, Tensor] | None,
    engine: str | Engine,
    controls: Mapping[str, Tensor | float],
) -> Callable[..., object]:
    params = {} if params is None else params
    x = prepare_token(problem, q, k, v, state, params, False, controls)
    chosen, bound = choose(problem, x, engine), None
    if not x.wants_grad and x.q.is_cpu and not needs_composite():
        start = x.state if state is None else state
        bound = _bound_step(problem, chosen, x, (q, k, v, start, controls, params), inplace)

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: State | None,
        *,
        params: Mapping[str, Tensor] | None = None,
        **controls: Tensor | float,
    ) -> tuple[Tensor, State]:
        named = params is None or type(params) is dict
        done = bound(q, k, v, state, controls, params or {}) if bound is not None and named else None
        return done or step(
            problem, q, k, v, state, **{"params": params, "inplace": inplace, "engine": engine, **controls}
        )

    return run


def choose(problem: Problem, x: Inputs, engine: str | Engine = "auto") -> Engine:
    """The engine that runs the call: the named one, or the first that does not refuse.

    Raises:
        ValueError: if the name is unknown, or the named engine refuses, with its reason.
    """
    named = check_engine(engine)
    if named is not None:
        reason = refusal(named, problem, x)
        if reason:
            raise ValueError(f"The engine {named.name!r} cannot run this: {reason} Use engine='auto'.")
        return named
    return next(b for b in ENGINES if refusal(b, problem, x) is None)


def check_engine(engine: str | Engine) -> Engine | None:
    """The engine of that name, or given itself; None for "auto".

    Raises:
        ValueError: if there is none.
    """
    if isinstance(engine, Engine):
        return engine
    names = ["auto", *(each.name for each in ENGINES)]
    if not isinstance(engine, str) or engine not in names:
        raise ValueError(f"There is no engine {engine!r}. Use 'auto' or one of {', '.join(names[1:])}.")
    return (None, *ENGINES)[names.index(engine)]


def refusal(engine: Engine, problem: Problem, x: Inputs | None = None) -> str | None:
    """Why an engine does not run a call: its own reason, or an active transform or compilation."""
    if x is not None and not engine.composite and is_transformed():
        return "It is not made of plain torch operations, which functorch transforms need."
    if x is not None and not (engine.composite or engine.compiles) and torch.compiler.is_compiling():
        return "It is not made of operations that torch.compile can trace."
    return engine.missing() or engine.refuses(problem, x)
