"""Law 5: rows of the batch and heads are independent; law 6: the meaning of importance; law 8: limits that
hold for every problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch

from ttr.controls import CONTROLS
from ttr.forms import CorrectedPairs, TransportedPairs
from ttr.inputs import Inputs
from ttr.laws.law import Law, Setting, compare, compare_states
from ttr.laws.rows import Case, Sizes, make_case, with_factor, with_importance, with_weights
from ttr.oracle import oracle
from ttr.prepare import prepare
from ttr.problem import Problem
from ttr.state import State
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window


def independence(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """A row of the batch on its own, one head while another changes, and grouped heads against repeated
    ones."""
    case = make_case(problem, dtype=setting.dtype, device=setting.device)
    y = setting.run(case)
    alone = dataclasses.replace(
        case,
        q=case.q[1:],
        k=case.k[1:],
        v=case.v[1:],
        controls={name: x if name == "ridge" else x[1:] for name, x in case.controls.items()},
    )
    yield compare("row alone", setting.run(alone), y[1:], setting.dtype)

    changed = case.with_leaves({name: _change_head(x, name) for name, x in case.leaves().items()})
    yield compare("head 1 when head 0 changes", setting.run(changed)[:, :, 1], y[:, :, 1], setting.dtype)

    for name, fewer in (
        ("queries", {"query_heads": 2}),
        ("keys", {"key_heads": 2}),
        ("keys and values", {"key_heads": 1, "value_heads": 2}),
    ):
        grouped = make_case(
            problem, Sizes(heads=4, **fewer), dtype=setting.dtype, device=setting.device
        ).differentiable()
        whole = {
            part: x.repeat_interleave(4 // x.shape[-2], dim=-2)
            for part, x in (("q", grouped.q), ("k", grouped.k), ("v", grouped.v))
        }
        outputs = setting.run(grouped), setting.run(dataclasses.replace(grouped, **whole))
        yield compare(f"grouped {name}", *outputs, setting.dtype)
        gradients = [
            torch.autograd.grad(y.square().sum(), (grouped.q, grouped.k, grouped.v)) for y in outputs
        ]
        for part, gradient, expected in zip("qkv", *gradients):
            yield compare(f"gradient of {part}, grouped {name}", gradient, expected, setting.dtype)


def _change_head(x: torch.Tensor, name: str) -> torch.Tensor:
    if name not in ("q", "k", "v"):
        return x
    changed = x.clone()
    changed[..., 0, :] = 3 * changed[..., 0, :]
    return changed


def importance(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Importance 0 removes a pair; for weights on samples, importance 2 repeats it; the read-out of an empty
    memory is 0."""
    problem = with_importance(problem)
    if problem is None:
        return
    case = make_case(problem, dtype=setting.dtype, device=setting.device)
    log_importance = case.controls["log_importance"].clone()
    log_importance[:, 4] = -torch.inf
    absent = dataclasses.replace(case, controls={**case.controls, "log_importance": log_importance})
    y, end = setting.run(absent, return_state=True)
    other = dataclasses.replace(absent, k=_at(case.k, 4, 2.0), v=_at(case.v, 4, -3.0))
    yield compare("pair of importance 0", setting.run(other), y, setting.dtype)
    source = absent.differentiable()
    gradient = torch.autograd.grad(setting.run(source).square().sum(), source.v)[0]
    yield "derivative in a pair of importance 0", gradient[:, 4].abs().max().item(), 0.0

    nothing = dataclasses.replace(
        case, controls={**case.controls, "log_importance": torch.full_like(log_importance, -torch.inf)}
    ).differentiable()
    silence = setting.run(nothing)
    yield compare(
        "empty memory beside the definition", silence, oracle(problem, **nothing.arguments()), setting.dtype
    )
    if not problem.function.learned_start:
        yield "read-out of an empty memory", silence.abs().max().item(), 0.0
    gradients = torch.autograd.grad(silence.sum(), list(nothing.leaves().values()), allow_unused=True)
    yield (
        "gradients of an empty memory",
        float(any(g is not None and not torch.isfinite(g).all() for g in gradients)),
        0.0,
    )
    if problem.weights.window is None and problem.solver.pairs_per_token == 1:
        # Not with an error at the old memory, which precedes the decay that is passed on, nor where a token
        # changes the memory without a pair: by momentum, or by transporting the keys.
        moves = "momentum" in problem.controls() or problem.form is TransportedPairs
        if problem.solver.gradient_at != "old" and not moves:
            yield from _removal(absent, y, end, setting)
        # not with a value correction, where the first of two pairs corrects the second
        if problem.solver.weights_act_on == "samples" and problem.form is not CorrectedPairs:
            yield from _repetition(case, setting)


def _at(x: torch.Tensor, token: int, factor: float) -> torch.Tensor:
    changed = x.clone()
    changed[:, token] *= factor
    return changed


def _removal(
    absent: Case, y: torch.Tensor, end: State, setting: Setting
) -> Iterable[tuple[str, float, float]]:
    """A call without the token, whose decay and phase are added to the next one's, gives the same outputs of
    the other tokens and the same state.

    The log decays are those that the weights compute from their controls, so that the law also holds for
    weights with other controls or none."""
    x = _inputs(absent)
    keep = torch.tensor([t for t in range(y.shape[1]) if t != 4], device=y.device)
    passed_on = _with_each(
        x, lambda log: torch.cat([log[:, :5], log[:, 4:5] + log[:, 5:6], log[:, 6:]], dim=1)
    )
    shorter, state = setting.engine.run(absent.problem, _in_order(passed_on, keep))
    yield compare("token of importance 0 left out", shorter, y[:, keep], setting.dtype)
    if "keys" not in state.tensors:
        yield from compare_states(
            "state with a token left out", state.replace(position=end.position), end, setting.dtype
        )


def _repetition(case: Case, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Importance 2 equals the pair twice, the second time without decay, phase or transport of the keys."""
    twice = case.controls["log_importance"].clone()
    twice[:, 4] = twice[:, 4] + torch.log(torch.tensor(2.0, dtype=twice.dtype))
    once = dataclasses.replace(case, controls={**case.controls, "log_importance": twice})
    order = torch.tensor([0, 1, 2, 3, 4, 4, 5, 6, 7, 8], device=twice.device)
    repeated = _with_each(
        _in_order(_inputs(case), order),
        lambda log: torch.cat([log[:, :5], 0 * log[:, 5:6], log[:, 6:]], dim=1),
    )
    if case.problem.form is TransportedPairs:
        repeated.controls["step_size"][:, 5] = 0.0
    keep = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 9], device=twice.device)
    y, _ = setting.engine.run(case.problem, repeated)
    yield compare("importance 2 = pair repeated", setting.run(once), y[:, keep], setting.dtype)


def _inputs(case: Case) -> Inputs:
    return prepare(case.problem, case.q, case.k, case.v, case.params, case.state, None, case.controls)


def _with_each(x: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """The call with every log decay, including the solver's own, and every phase changed."""
    logs = {name: change(log) for name in ("log_retention", "phase") if (log := getattr(x, name)) is not None}
    own = {name: change(log) for name, log in x.controls.items() if CONTROLS[name].at_most == 0.0}
    return dataclasses.replace(x, **logs, controls={**x.controls, **own})


def _in_order(x: Inputs, order: torch.Tensor) -> Inputs:
    """The call with its tokens at those places, in that order."""
    fields = ("q", "k", "v", "log_retention", "log_importance", "phase")
    taken = {name: tensor[:, order] for name in fields if (tensor := getattr(x, name)) is not None}
    return dataclasses.replace(
        x, **taken, controls={name: c if name == "ridge" else c[:, order] for name, c in x.controls.items()}
    )


def limits(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Without decay, phase and importance, weights are uniform; a window over the whole sequence changes
    nothing."""
    case = make_case(problem, dtype=setting.dtype, device=setting.device)
    weights = problem.weights
    plain = with_weights(problem, Uniform() if weights.window is None else Window(weights.window))
    does_something = weights.retention is not None or weights.importance
    if plain is not None and does_something and not weights.folds and setting.engine.refuses(plain) is None:
        x = _inputs(case)
        neutral = {
            name: torch.zeros_like(log)
            for name in ("log_retention", "log_importance", "phase")
            if (log := getattr(x, name)) is not None
        }
        controls = {control: c for control, c in case.controls.items() if control in plain.controls()}
        params = {name: p for name, p in case.params.items() if not name.startswith("weights.")}
        full, _ = setting.engine.run(problem, dataclasses.replace(x, **neutral))
        bare = setting.run(dataclasses.replace(case, problem=plain, controls=controls, params=params))
        yield compare(f"{type(weights).__name__} at its limit", full, bare, setting.dtype)
    wide = with_factor(problem, Window(case.q.shape[1])) if weights.window is None else None
    if wide is not None and setting.engine.refuses(wide) is None:
        yield compare(
            "a window over everything",
            setting.run(dataclasses.replace(case, problem=wide)),
            setting.run(case),
            setting.dtype,
        )


LAWS = (
    Law(5, "rows and heads apart", independence),
    Law(6, "importance", importance),
    Law(8, "limits", limits),
)
