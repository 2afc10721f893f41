"""Law 12: results do not depend on the memory layout of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ttr.dispatch import plan, step
from ttr.laws.law import Law, Setting, compare, compare_states, outcome
from ttr.laws.rows import Case, Sizes, make_case
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import negated_lazily

Found = Iterable[tuple[str, float, float]]
"""(quantity, error, bound), as a law yields them."""


# ------------------------------------------------------------------------------------------------ layouts
def _rows_apart(x: Tensor) -> tuple[Tensor, Tensor]:
    """Channels adjacent, heads outermost."""
    return _strided(x, [*reversed(range(x.ndim - 1)), *range(x.ndim)[-1:]])


def _axes_reversed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Batch innermost, channels outermost."""
    return _strided(x, [*reversed(range(x.ndim))])


def _every_second(x: Tensor) -> tuple[Tensor, Tensor]:
    """A slice with a step."""
    return _strided(x, [*range(x.ndim)], step=2)


def _imaginary(x: Tensor) -> tuple[Tensor, Tensor]:
    """The imaginary part of a conjugate: every second entry along the last axis, lazily negated, for dtypes
    that have a complex one."""
    if x.dtype not in (torch.float32, torch.float64):
        return _every_second(x)
    buffer = torch.complex(_nothing(x, *x.shape), -x)
    return torch.view_as_real(buffer), buffer.conj().imag


def _inside(x: Tensor) -> tuple[Tensor, Tensor]:
    """Contiguous."""
    buffer = torch.cat([edge := _nothing(x, 1), x.flatten(), edge])
    return buffer, buffer[1:-1].view(x.shape)


def _negated(x: Tensor) -> tuple[Tensor, Tensor]:
    """Contiguous, with torch's lazy negation bit."""
    buffer, inner = _inside(-x)
    return buffer, negated_lazily(inner)


LAYOUTS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "rows apart": _rows_apart,
    "axes reversed": _axes_reversed,
    "every second entry": _every_second,
    "imaginary part of a conjugate": _imaginary,
    "negated": _negated,
    "inside a buffer": _inside,
}
"""x -> (a buffer, a view of it with the numbers of x); the rest of the buffer is NaN or -1."""


def _strided(x: Tensor, order: list[int], step: int = 1) -> tuple[Tensor, Tensor]:
    """``order`` lists the axes from the outermost inwards; every axis of the buffer is longer than that of
    the view."""
    buffer = _nothing(x, *(step * x.shape[axis] + 2 for axis in order))
    inside = tuple(slice(1, 1 + step * size, step) for size in x.shape)
    inner = buffer.permute([order.index(axis) for axis in range(x.ndim)])[inside]
    inner.copy_(x)
    return buffer, inner


def _nothing(x: Tensor, *shape: int) -> Tensor:
    return x.new_full(shape, torch.nan if x.is_floating_point() else -1)


Lay = Callable[[int, str, Tensor], tuple[Tensor, Tensor]]
"""(number, name, x) -> a buffer and a view of it, as in ``LAYOUTS``."""


def _by_turns(names: tuple[str, ...], first: int) -> Lay:
    """Tensor ``number`` in layout ``first + number``, cyclically: neighbours have different layouts."""
    return lambda number, name, x: LAYOUTS[names[(first + number) % len(names)]](x)


def _turns(*names: str) -> dict[str, Lay]:
    return {f"q {name}, turn {first}": _by_turns(names, first) for first, name in enumerate(names)}


APART = _turns("rows apart", "axes reversed", "every second entry")
CONJUGATES = _turns("imaginary part of a conjugate")
CONTIGUOUS = _turns("negated", "inside a buffer", "inside a buffer")
"""Contiguous tensors take the specialised paths. Every third one is negated: with all or every second one
negated, the signs could cancel."""


def _one_row(number: int, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The first row of the batch, expanded over the batch."""
    row = x[:1].clone() if _has_rows(name) else x.clone()
    return row, row.expand(x.shape)


def _has_rows(name: str) -> bool:
    return name != "ridge" and (name.startswith("state.") or "." not in name)


class _Laid:
    """A case with copies of all its tensors, including the state's position, in another layout."""

    def __init__(self, case: Case, lay: Lay) -> None:
        tensors = case.leaves()
        if case.state is not None:
            tensors |= {f"state.{name}": x for name, x in case.state.tensors.items()}
            tensors["state.position"] = case.state.position
        self._lies = {name: lay(number, name, x.detach()) for number, (name, x) in enumerate(tensors.items())}
        self._before = {name: (x, self._lies[name][0].clone()) for name, x in tensors.items()}
        self.case = case.with_leaves({name: view for name, (_, view) in self._lies.items()})
        if case.state is not None:
            state = {name: self._lies[f"state.{name}"][1] for name in (*case.state, "position")}
            self.case = replace(self.case, state=case.state.replace(**state))

    def changed(self, overwritten: bool = False) -> float:
        """How many buffers have changed, not counting a state that may be ``overwritten``."""
        found = 0
        for name, (x, before) in self._before.items():
            buffer, view = self._lies[name]
            if overwritten and name.startswith("state."):
                view.copy_(x)
            found += not ((buffer == before) | (buffer != buffer) & (before != before)).all()
        return float(found)


# ------------------------------------------------------------------------------------------------ the law
def layouts(problem: Problem, setting: Setting) -> Found:
    """Inputs, parameters, controls, states and incoming gradients in every layout, through ``regress``,
    ``step`` and ``plan``: outputs, states and gradients equal those of contiguous tensors, and nothing is
    written except a state that may be overwritten."""
    yield from _everywhere(problem, setting, time=6)


def layouts_of_blocks(problem: Problem, setting: Setting) -> Found:
    """The same on sequences longer than a block of the size that ordinary calls use."""
    yield from _everywhere(problem, setting, time=70)


def _everywhere(problem: Problem, setting: Setting, time: int) -> Found:
    """The sizes avoid copies on the way to a kernel: keys as long as values need no padding; with one row and
    one head, transposed axes are still contiguous; without a past, attention has no log weights to add."""
    sizes, made = Sizes(time=time, key=2, value=2), {"dtype": setting.dtype, "device": setting.device}
    fresh, past = (make_case(problem, sizes, past=past, **made) for past in (0, 3))
    single = make_case(problem, replace(sizes, batch=1, heads=1), past=3, **made)
    one_row: dict[str, Lay] = {"one row for all": _one_row}
    yield from _sequences(fresh, APART, setting)
    yield from _sequences(single, CONTIGUOUS | CONJUGATES, setting)
    yield from _sequences(_repeated(past), one_row, setting)
    yield from _packed(replace(single, state=None), setting)
    if problem.function.causal:
        yield from _tokens(_token(past), APART | CONTIGUOUS | CONJUGATES, setting)
        yield from _tokens(_token(_repeated(past)), one_row, setting)


def _repeated(case: Case) -> Case:
    """The case with every row of the batch replaced by the first."""

    def repeated(name: str, x: Tensor) -> Tensor:
        return x[:1].expand_as(x).contiguous() if _has_rows(name) else x

    case = case.with_leaves({name: repeated(name, x) for name, x in case.leaves().items()})
    if case.state is None:
        return case
    return replace(case, state=case.state.map(lambda x: repeated("state.", x)))


def _sequences(case: Case, ways: Mapping[str, Lay], setting: Setting) -> Found:
    """``regress`` with gradients, and for the last layout a plan without."""
    reference, end, expected = _differentiated(case, None, setting)
    for words, lay in ways.items():
        laid = _Laid(case, lay)
        y, state, gradients = _differentiated(laid.case, lay, setting)
        yield compare(f"output, {words}", y, reference, setting.dtype)
        yield from compare_states(f"state, {words}", state, end, setting.dtype)
        for name, gradient in gradients.items():
            yield compare(f"gradient of {name}, {words}", gradient, expected[name], setting.dtype)
        yield f"tensors that were changed, {words}", laid.changed(), 0.0
    planned = plan(case.problem, engine=setting.engine, **case.arguments())
    yield compare(f"output of a plan, {words}", planned(**laid.case.arguments()), reference, setting.dtype)


def _differentiated(case: Case, lay: Lay | None, setting: Setting) -> tuple[Tensor, State, dict[str, Tensor]]:
    """Output, state, and gradients, from incoming gradients that are contiguous or in the layout of
    ``lay``."""
    leaves = {name: x.detach().requires_grad_() for name, x in case.leaves().items()}
    y, state = outcome(setting.run, case.with_leaves(leaves))
    outputs = [x for x in (y, *state.tensors.values()) if x.requires_grad and not torch.isneginf(x).any()]
    incoming = [_direction(x) for x in outputs]
    if lay is not None:
        incoming = [lay(number, "gradient", x)[1] for number, x in enumerate(incoming)]
    found = torch.autograd.grad(
        outputs, [*leaves.values()], incoming, allow_unused=True, materialize_grads=True
    )
    return y.detach(), state.detach(), dict(zip(leaves, found))


def _direction(x: Tensor) -> Tensor:
    """A gradient for the output x, the same for all rows of the batch."""
    row = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return row.to(x).expand(x.shape).contiguous()


@torch.no_grad()
def _tokens(token: Case, ways: Mapping[str, Lay], setting: Setting) -> Found:
    """``step`` and planned decode steps, in place and not."""
    y, end = _step(token, setting, False)
    grows = any(end[name].shape != x.shape for name, x in token.state.tensors.items())
    runs = {
        "step": partial(_step, setting=setting, inplace=False),
        "step in place": partial(_step, setting=setting, inplace=True),
        "planned token": _planned(token, setting, False),
        "planned token in place": _planned(token, setting, True),
    }
    for words, lay in ways.items():
        laid = _Laid(token, lay)
        for name, run in runs.items():
            found, state = run(laid.case)
            overwritten = name.endswith("in place") and lay is not _one_row and not grows
            after = laid.case.state if overwritten else state
            yield compare(f"output of a {name}, {words}", found, y, setting.dtype)
            yield from compare_states(f"state of a {name}, {words}", after, end, setting.dtype)
            yield f"tensors changed by a {name}, {words}", laid.changed(overwritten), 0.0
    found, state = _planned(laid.case, setting, False)(token)
    yield compare("output of a token planned with others", found, y, setting.dtype)
    yield from compare_states("state of a token planned with others", state, end, setting.dtype)


def _step(token: Case, setting: Setting, inplace: bool) -> tuple[Tensor, State]:
    return step(token.problem, engine=setting.engine, inplace=inplace, **token.arguments())


def _planned(like: Case, setting: Setting, inplace: bool) -> Callable[[Case], tuple[Tensor, State]]:
    bound = plan(like.problem, inplace=inplace, engine=setting.engine, **_arguments(like))
    return lambda token: bound(**_arguments(token))


def _arguments(token: Case) -> dict[str, object]:
    """The arguments without empty params: a call that passes params takes no specialised step."""
    return {name: x for name, x in token.arguments().items() if name != "params" or x}


def _token(case: Case) -> Case:
    """The first token of the case, without the time axis."""
    one = case.tokens(slice(0, 1), case.state)
    controls = {name: x if name == "ridge" else x[:, 0] for name, x in one.controls.items()}
    token = replace(one, q=one.q[:, 0], k=one.k[:, 0], v=one.v[:, 0], controls=controls)
    return token.with_leaves({name: x.contiguous() for name, x in token.leaves().items()})


def _packed(case: Case, setting: Setting) -> Found:
    """Packed sequences, one of them empty, with their boundaries in another layout too."""
    bounds, lay = torch.tensor([0, 4, 4, case.q.shape[1]], device=setting.device), next(iter(APART.values()))
    y = setting.run(_Laid(case, lay).case, cu_seqlens=_every_second(bounds)[1])
    yield compare("output packed", y, setting.run(case, cu_seqlens=bounds), setting.dtype)


LAWS = (Law(12, "layout", layouts), Law(12, "layout over full blocks", layouts_of_blocks, slow=True))
