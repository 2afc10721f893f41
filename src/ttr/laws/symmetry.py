"""Law 5: rows and heads are independent; law 6: what importance means; law 8: limits that hold for every problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from ttr.controls import CONTROLS
from ttr.laws.law import Law, Setting, compare, compare_states
from ttr.laws.rows import Case, Sizes, make_case, with_factor, with_importance, with_weights
from ttr.oracle import oracle
from ttr.problem import Problem, Weights
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window


def independence(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """A row of the batch alone, and grouped heads against repeated ones."""
    case = make_case(problem, dtype=setting.dtype, device=setting.device)
    y = setting.run(case)
    alone = dataclasses.replace(case, q=case.q[1:], k=case.k[1:], v=case.v[1:],
                                controls={name: x if name == "ridge" else x[1:] for name, x in case.controls.items()})
    yield compare("row alone", setting.run(alone), y[1:], setting.dtype)

    changed = case.with_leaves({name: _change_head(x, name) for name, x in case.leaves().items()})
    yield compare("head 1 when head 0 changes", setting.run(changed)[:, :, 1], y[:, :, 1], setting.dtype)

    for name, fewer in (("queries", {"query_heads": 2}), ("keys", {"key_heads": 2}), ("keys and values", {"key_heads": 1, "value_heads": 2})):
        grouped = make_case(problem, Sizes(heads=4, **fewer), dtype=setting.dtype, device=setting.device).differentiable()
        whole = {part: x.repeat_interleave(4 // x.shape[-2], dim=-2) for part, x in (("q", grouped.q), ("k", grouped.k), ("v", grouped.v))}
        outputs = setting.run(grouped), setting.run(dataclasses.replace(grouped, **whole))
        yield compare(f"grouped {name}", *outputs, setting.dtype)
        gradients = [torch.autograd.grad(y.square().sum(), (grouped.q, grouped.k, grouped.v)) for y in outputs]
        for part, gradient, expected in zip("qkv", *gradients):
            yield compare(f"gradient of {part}, grouped {name}", gradient, expected, setting.dtype)


def _change_head(x: torch.Tensor, name: str) -> torch.Tensor:
    if name not in ("q", "k", "v"):
        return x
    changed = x.clone()
    changed[..., 0, :] = 3 * changed[..., 0, :]
    return changed


def importance(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Importance 0 makes a pair absent; for weights on samples, importance 2 repeats it; an empty memory reads 0."""
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

    nothing = dataclasses.replace(case, controls={**case.controls, "log_importance": torch.full_like(log_importance, -torch.inf)}).differentiable()
    silence = setting.run(nothing)
    yield compare("empty memory beside the definition", silence, oracle(problem, **nothing.arguments()), setting.dtype)
    if not problem.function.learned_start:
        yield "read-out of an empty memory", silence.abs().max().item(), 0.0
    gradients = torch.autograd.grad(silence.sum(), list(nothing.leaves().values()), allow_unused=True)
    yield "gradients of an empty memory", float(any(g is not None and not torch.isfinite(g).all() for g in gradients)), 0.0
    if problem.weights.window is None and problem.solver.pairs_per_token == 1:
        # An error of the old memory is measured before the decay that is passed on, and momentum moves the memory without a pair;
        # so does a token that turns the keys.
        moves = "momentum" in problem.controls() or problem.function.transported
        if problem.solver.gradient_at != "old" and not moves:
            yield from _removal(absent, y, end, setting)
        if problem.solver.weights_act_on == "samples" and not problem.solver.corrects:  # the first of two pairs corrects the second
            yield from _repetition(case, setting)


def _at(x: torch.Tensor, token: int, factor: float) -> torch.Tensor:
    changed = x.clone()
    changed[:, token] *= factor
    return changed


def _removal(absent: Case, y: torch.Tensor, end, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Leaving the token out, its decay passed on to the next one, gives the other tokens' outputs and the state."""
    if _fixed(absent):
        return  # a fixed decay acts once per token, present or not
    keep = torch.tensor([t for t in range(y.shape[1]) if t != 4], device=y.device)
    controls = dict(absent.controls)
    for name in (name for name in absent.controls if CONTROLS[name].at_most == 0.0 or name == "phase"):
        passed = controls[name].clone()
        passed[:, 5] += passed[:, 4]
        controls[name] = passed
    without = dataclasses.replace(absent, controls=controls).tokens(keep)
    shorter, state = setting.run(without, return_state=True)
    yield compare("token of importance 0 left out", shorter, y[:, keep], setting.dtype)
    if "keys" not in state.tensors:
        yield from compare_states("state with a token left out", state.replace(position=end.position), end, setting.dtype)


def _fixed(case: Case) -> bool:
    """Whether the past fades or turns at every token without a control that could stop it."""
    weights = case.problem.weights
    return any(part is not None and name not in case.controls for part, name in ((weights.retention, "log_decay"), (weights.rotation, "phase")))


def _repetition(case: Case, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Importance 2 equals the pair twice, the second time without decay and without turning keys."""
    if _fixed(case):
        return
    twice = case.controls["log_importance"].clone()
    twice[:, 4] = twice[:, 4] + torch.log(torch.tensor(2.0, dtype=twice.dtype))
    once = dataclasses.replace(case, controls={**case.controls, "log_importance": twice})
    order = torch.tensor([0, 1, 2, 3, 4, 4, 5, 6, 7, 8], device=twice.device)
    repeated = case.tokens(order)
    for name in {"log_decay", "phase"} & set(case.controls):
        repeated.controls[name][:, 5] = 0.0
    if case.problem.function.transported:
        repeated.controls["step_size"][:, 5] = 0.0
    keep = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 9], device=twice.device)
    yield compare("importance 2 = pair repeated", setting.run(once), setting.run(repeated)[:, keep], setting.dtype)


def limits(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """No decay = uniform weights; no importance = none declared; a window that holds everything = none; order of the rows."""
    case = make_case(problem, dtype=setting.dtype, device=setting.device)
    for name, plain in _simpler(problem.weights):
        simpler = with_weights(problem, plain)
        if simpler is None or setting.backend.refuses(simpler) is not None:
            continue
        neutral = {control: torch.zeros_like(x) if control in ("log_decay", "log_importance", "phase") else x for control, x in case.controls.items()}
        kept = {control: x for control, x in neutral.items() if control in simpler.controls()}
        params = {name: x for name, x in case.params.items() if not name.startswith("weights.")}
        full = setting.run(dataclasses.replace(case, controls=neutral))
        bare = setting.run(dataclasses.replace(case, problem=simpler, controls=kept, params=params))
        yield compare(f"{name} at its limit", full, bare, setting.dtype)
    wide = with_factor(problem, Window(case.q.shape[1])) if problem.weights.window is None else None
    if wide is not None and setting.backend.refuses(wide) is None:
        yield compare("a window over everything", setting.run(dataclasses.replace(case, problem=wide)), setting.run(case), setting.dtype)


def _simpler(weights: Weights) -> Iterable[tuple[str, Weights]]:
    """Weights that the given ones become when their controls are 0."""
    if weights.folds or not weights.controls() or (weights.retention and "log_decay" not in weights.controls()):
        return
    yield type(weights).__name__, Uniform() if weights.window is None else Window(weights.window)


LAWS = (Law(5, "rows and heads apart", independence), Law(6, "importance", importance), Law(8, "limits", limits))
