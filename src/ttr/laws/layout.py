"""Law 12: how tensors lie in memory changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ttr.dispatch import plan, step
from ttr.laws.law import Law, Setting, compare, compare_states, outcome
from ttr.laws.rows import Case, Sizes, make_case
from ttr.problem import Problem
from ttr.state import State


class Placed:
    """A tensor's numbers once more, in a buffer full of NaN (-1 for integers) that is as large as the layout wants.

    Attributes:
        tensor: the numbers, as a view of the buffer.
    """

    def __init__(self, x: Tensor, layout: str) -> None:
        steps = 2 if layout == "every second entry" else 1
        shape = [1 + steps * size for size in x.shape]  # a border that no kernel may read or write, in front and between
        order = list(reversed(range(x.ndim))) if layout == "axes reversed" else list(range(x.ndim))
        fill = torch.nan if x.is_floating_point() else -1
        self.buffer = x.new_full([shape[axis] for axis in order] + [1], fill)[..., 0]
        view = self.buffer.permute([order.index(axis) for axis in range(x.ndim)])
        self.inside = tuple(slice(1, None, steps) for _ in x.shape)
        self.view = view
        lazy = layout == "lazily negated" and x.is_floating_point()
        self.tensor = torch._neg_view(torch.neg(x.contiguous())) if lazy else view[self.inside]
        if not lazy:
            self.tensor.copy_(x)

    @property
    def surrounded(self) -> bool:
        """Whether nothing was written outside of the numbers."""
        outside = torch.ones_like(self.view, dtype=torch.bool)
        if self.tensor.untyped_storage().data_ptr() != self.buffer.untyped_storage().data_ptr():
            return True
        outside[self.inside] = False
        rest = self.view[outside]
        return bool((rest.isnan() if rest.is_floating_point() else rest == -1).all())


LAYOUTS = ("axes reversed", "every second entry", "lazily negated", "one row for all")
"""Channels apart and time next to time; a slice with a step; torch's negation that waits to be done; a batch that is an expanded row."""


def layouts(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """All inputs, parameters, controls, states and incoming gradients in one layout, through ``regress``, ``step`` and ``plan``: outputs,
    states and gradients are those of contiguous copies, and nothing is written but a state that is to be overwritten."""
    fresh, case = (make_case(problem, Sizes(time=5, key=2, value=2), past=past, dtype=setting.dtype, device=setting.device) for past in (0, 3))
    alike = _one_row(case)
    for batch, laid_out in ((fresh, LAYOUTS[:1]), (case, LAYOUTS[1:-1]), (alike, LAYOUTS[-1:])):
        expected = _differentiated(_contiguous(batch), "", setting)
        for layout in laid_out:
            yield from _sequences(batch, layout, expected, setting)
    if problem.function.causal:
        yield from _tokens(case, LAYOUTS[:-1], setting)
        yield from _tokens(alike, LAYOUTS[-1:], setting)
    bounds = torch.tensor([0, 2, 2], device=setting.device)
    one = make_case(problem, Sizes(batch=1, time=2), dtype=setting.dtype, device=setting.device)
    packed, expected = (setting.run(one, cu_seqlens=x) for x in (Placed(bounds, LAYOUTS[1]).tensor, bounds))
    yield compare("output packed, every second entry", packed, expected, setting.dtype)


def _one_row(case: Case) -> Case:
    """The case with the first row of the batch in the place of all, as a view."""
    first = {name: x[:1].expand_as(x) if "." not in name and x.ndim > 2 or name.startswith("state.") else x for name, x in case.leaves().items()}
    return case.with_leaves(first)


def _laid(case: Case, layout: str) -> tuple[Case, dict[str, Placed]]:
    """The case with all its tensors in a layout, and where they lie."""
    if layout == "one row for all":
        return case, {}
    tensors = case.leaves()
    if case.state is not None:
        tensors |= {f"state.{name}": x for name, x in case.state.tensors.items()}
    placed = {name: Placed(x, layout) for name, x in tensors.items()}
    laid = case.with_leaves({name: p.tensor for name, p in placed.items()})
    if case.state is not None:
        placed["state.position"] = Placed(case.state.position, layout)
        state = {name: placed[f"state.{name}"].tensor for name in (*case.state, "position")}
        laid = replace(laid, state=case.state.replace(**state))
    return laid, placed


def _contiguous(case: Case) -> Case:
    copied = case.with_leaves({name: x.clone(memory_format=torch.contiguous_format) for name, x in case.leaves().items()})
    return copied if case.state is None else replace(copied, state=State.from_state_dict(case.state.state_dict()))


Found = tuple[Tensor, State, dict[str, Tensor]]
"""Output, state, and gradients by name."""


def _sequences(case: Case, layout: str, expected: Found, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """``regress`` with its gradients, and a plan, which has none, where channels are apart."""
    laid, placed = _laid(case, layout)
    (y, state, gradients), (reference, end, references) = _differentiated(laid, layout, setting), expected
    yield compare(f"output, {layout}", y, reference, setting.dtype)
    yield from compare_states(f"state, {layout}", state, end, setting.dtype)
    for name, gradient in gradients.items():
        yield compare(f"gradient of {name}, {layout}", gradient, references[name], setting.dtype)
    if layout == LAYOUTS[0]:
        planned = plan(case.problem, backend=setting.backend, **_contiguous(case).arguments())
        yield compare(f"output of a plan, {layout}", planned(**laid.arguments()), reference, setting.dtype)
    yield from _untouched(laid, placed, case, layout)


def _differentiated(case: Case, layout: str, setting: Setting) -> Found:
    """From incoming gradients that lie as the inputs do; they are the same in every row of the batch."""
    leaves = {name: x.detach().requires_grad_() for name, x in case.leaves().items()}
    y, state = outcome(setting.run, case.with_leaves(leaves))
    outputs = [x for x in (y, *(state[name] for name in state)) if x.requires_grad and not torch.isneginf(x).any()]
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(x[:1].shape, generator=generator, dtype=torch.float64).to(x).expand_as(x) for x in outputs]
    if layout != LAYOUTS[-1]:
        incoming = [Placed(x, layout).tensor if layout else x.contiguous() for x in incoming]
    found = torch.autograd.grad(outputs, list(leaves.values()), incoming, allow_unused=True, materialize_grads=True)
    return y.detach(), state.detach(), dict(zip(leaves, found))


@torch.no_grad()
def _tokens(case: Case, laid_out: Iterable[str], setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Single tokens without gradients: a step; one in place by the way that the step before it has found; a planned one in place."""
    token = _token(case)
    plain = _contiguous(token)
    y, end = _step(plain, setting.backend, inplace=False)
    bound = plan(case.problem, inplace=True, backend=setting.backend, **_arguments(plain))
    _step(_contiguous(token), "auto", inplace=True)
    ways: dict[str, Callable[[Case], tuple[Tensor, State]]] = {
        "step": lambda one: _step(one, setting.backend, inplace=False), "step in place": lambda one: _step(one, "auto", inplace=True),
        # A kernel that took the controls with a wrong sign would refuse them, and another way be gone.
        "planned token in place": lambda one: bound(**_arguments(replace(one, controls=plain.controls)))}
    for layout in laid_out:
        for words, run in ways.items():
            laid, placed = _laid(token, layout)
            found, state = run(laid)
            yield compare(f"output of a {words}, {layout}", found, y, setting.dtype)
            yield from compare_states(f"state of a {words}, {layout}", state, end, setting.dtype)
            if words == "step":
                yield from _untouched(laid, placed, token, f"{words}, {layout}")
            yield f"surroundings of a {words}, {layout}", float(not all(p.surrounded for p in placed.values())), 0.0


def _token(case: Case) -> Case:
    """The first token of the case, without its axis of time."""
    one = case.tokens(slice(0, 1), case.state)
    controls = {name: x if name == "ridge" else x[:, 0] for name, x in one.controls.items()}
    return replace(one, q=one.q[:, 0], k=one.k[:, 0], v=one.v[:, 0], controls=controls)


def _arguments(token: Case) -> dict[str, object]:
    return {name: x for name, x in token.arguments().items() if name != "params" or x}


def _step(token: Case, backend: object, inplace: bool) -> tuple[Tensor, State]:
    return step(token.problem, backend=backend, inplace=inplace, **token.arguments())


def _untouched(laid: Case, placed: Mapping[str, Placed], case: Case, words: str) -> Iterable[tuple[str, float, float]]:
    """The inputs still hold their numbers, and what lies around them too."""
    same = all(torch.equal(x, case.leaves()[name]) for name, x in laid.leaves().items())
    yield f"inputs afterwards, {words}", float(not (same and all(p.surrounded for p in placed.values()))), 0.0


LAWS = (Law(12, "layout", layouts),)
