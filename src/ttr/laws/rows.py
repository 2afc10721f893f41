"""The cases of the laws: every problem that can be made of the components' examples, and inputs for each."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr import registry
from ttr.component import axis_params
from ttr.controls import CONTROLS
from ttr.initial import init_params
from ttr.oracle import oracle
from ttr.problem import Problem, Weights, refusal
from ttr.state import State
from ttr.weights.importance import Importance
from ttr.weights.product import Product


@functools.cache
def triples() -> tuple[Problem, ...]:
    """Every valid triple of the components' examples."""
    return tuple(Problem(*triple) for triple, reason in _judged() if reason is None)


@functools.cache
def covering() -> tuple[Problem, ...]:
    """A pairwise covering, chosen greedily: valid triples that together contain every valid pair of examples
    of two axes."""
    left = {pair for problem in triples() for pair in _pairs(problem)}
    chosen, rest = [], list(triples())
    while left:
        best = max(rest, key=lambda problem: len(left & _pairs(problem)))
        chosen.append(best)
        rest.remove(best)
        left -= _pairs(best)
    return tuple(chosen)


def _pairs(problem: Problem) -> set[tuple[object, object]]:
    parts = (problem.weights, problem.function, problem.solver)
    return {(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]}


@functools.cache
def refused_triples() -> tuple[tuple[object, object, object], ...]:
    """Every triple of the components' examples that is refused."""
    return tuple(triple for triple, reason in _judged() if reason is not None)


@functools.cache
def _judged() -> tuple[tuple[tuple[object, object, object], str | None], ...]:
    """Every triple, and why it is refused."""
    axes = [
        [example for cls in registry.members(kind) for example in cls.examples()]
        for kind in ("weights", "function", "solver")
    ]
    return tuple((triple, refusal(*triple)) for triple in itertools.product(*axes))


def with_weights(problem: Problem, weights: Weights) -> Problem | None:
    """The problem with other weights; None where they cannot be combined."""
    if refusal(weights, problem.function, problem.solver) is not None:
        return None
    return dataclasses.replace(problem, weights=weights)


def with_importance(problem: Problem) -> Problem | None:
    """The problem with the control ``log_importance``, added if it lacks it; None where it cannot be."""
    has = problem.weights.importance and "log_importance" in problem.controls()
    return problem if has else with_factor(problem, Importance())


def with_factor(problem: Problem, factor: Weights) -> Problem | None:
    """The problem with its weights multiplied by another; None where they cannot be."""
    return None if problem.weights.folds else with_weights(problem, Product((problem.weights, factor)))


@dataclass(frozen=True)
class Sizes:
    """Sizes of a case: batch, tokens, heads, key and value size; heads of q, k, v where they are grouped."""

    batch: int = 2
    time: int = 9
    heads: int = 2
    key: int = 3
    value: int = 2
    query_heads: int | None = None
    key_heads: int | None = None
    value_heads: int | None = None


GATES = (0.0, -1e-3, -1.0, -5.0, -20.0, -100.0, -torch.inf)
"""The log decays of law 7, from none to a reset."""


@dataclass(frozen=True)
class Case:
    """The tensors of one call; ``arguments()`` returns them as keyword arguments of regress and oracle."""

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    controls: Mapping[str, Tensor]
    params: Mapping[str, Tensor]
    state: State | None = None

    def arguments(self) -> dict[str, object]:
        return {
            "q": self.q,
            "k": self.k,
            "v": self.v,
            "params": self.params,
            "state": self.state,
            **self.controls,
        }

    def tokens(self, time: slice | Tensor, state: State | None = None) -> Case:
        """The case restricted to some tokens."""
        controls = {name: x if name == "ridge" else x[:, time] for name, x in self.controls.items()}
        return dataclasses.replace(
            self, q=self.q[:, time], k=self.k[:, time], v=self.v[:, time], controls=controls, state=state
        )

    def leaves(self) -> dict[str, Tensor]:
        """Every differentiable tensor by name."""
        named = {"q": self.q, "k": self.k, "v": self.v, **self.controls, **self.params}
        if self.state is not None:
            named |= {
                f"state.{name}": tensor
                for name, tensor in self.state.tensors.items()
                if not torch.isneginf(tensor).any()
            }
        return named

    def with_leaves(self, leaves: Mapping[str, Tensor]) -> Case:
        """The case with the tensors named in ``leaves`` replaced."""
        state = self.state
        if state is not None:
            state = state.replace(
                **{name: leaves[f"state.{name}"] for name in state if f"state.{name}" in leaves}
            )
        return dataclasses.replace(
            self,
            q=leaves["q"],
            k=leaves["k"],
            v=leaves["v"],
            state=state,
            controls={name: leaves[name] for name in self.controls},
            params={name: leaves[name] for name in self.params},
        )

    def differentiable(self) -> Case:
        """A copy whose leaves require gradients."""
        return self.with_leaves(
            {name: x.detach().clone().requires_grad_() for name, x in self.leaves().items()}
        )


def make_case(
    problem: Problem,
    sizes: Sizes = Sizes(),
    *,
    strong_gates: bool = False,
    past: int = 0,
    trained: bool = False,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> Case:
    """Random inputs of unit scale for a problem: a pure function of the arguments.

    With ``past`` > 0 the case starts from the state after that many tokens, if the problem has states;
    ``strong_gates`` draws from the log decays of law 7. Parameters are near their initial values; with
    ``trained`` a learned initial memory has unit scale, however small its initial values are.
    """
    case = _made(problem, sizes, strong_gates, past if problem.function.causal else 0, trained, dtype, seed)
    state = None if case.state is None else case.state.clone()
    return _move(
        dataclasses.replace(case, state=state).with_leaves(
            {name: x.clone() for name, x in case.leaves().items()}
        ),
        device,
    )


@functools.lru_cache(maxsize=64)  # the laws use the same case once per engine
def _made(
    problem: Problem,
    sizes: Sizes,
    strong_gates: bool,
    past: int,
    trained: bool,
    dtype: torch.dtype,
    seed: int,
) -> Case:
    least = int(problem.function.limits().get("value_size", 1))
    sizes = dataclasses.replace(sizes, value=sizes.value and max(sizes.value, least))
    digest = hashlib.sha256(repr((problem, sizes, strong_gates, past, seed)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
    case = _draw(
        problem, dataclasses.replace(sizes, time=sizes.time + past), strong_gates, trained, generator, dtype
    )
    if past:
        _, state = oracle(problem, return_state=True, **case.tokens(slice(0, past)).arguments())
        case = case.tokens(slice(past, None), state.to(dtype=torch.promote_types(dtype, torch.float32)))
    return case


def _draw(
    problem: Problem,
    sizes: Sizes,
    strong_gates: bool,
    trained: bool,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Case:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pairs = problem.solver.pairs_per_token
    lead = (sizes.batch, sizes.time)
    inner = lead if pairs == 1 else (*lead, pairs)
    letters = {
        "B": sizes.batch,
        "T": sizes.time,
        "n": pairs,
        "H": sizes.heads,
        "K": sizes.key,
        "V": sizes.value,
        "F": problem.function.feature_size(sizes.key),
    } | problem.sizes()
    controls = {
        name: draw_control(name, tuple(letters[a] for a in axes), strong_gates, generator)
        for name, axes in problem.controls().items()
    }
    if "step_size" in controls:
        controls["step_size"] = problem.function.limits().get("step_size", 1.0) * controls["step_size"]
    params = init_params(
        problem, heads=sizes.heads, key_size=sizes.key, value_size=sizes.value, generator=generator
    )
    params = {name: x.double() * (1 + 0.1 * normal(*x.shape)) for name, x in params.items()}
    q = normal(*lead, sizes.query_heads or sizes.heads, sizes.key)
    k = normal(*inner, sizes.key_heads or sizes.heads, sizes.key) / sizes.key**0.5
    v = normal(*inner, sizes.value_heads or sizes.heads, sizes.value)
    if trained:
        for name in problem.function.initial(axis_params(params, "function")):
            matrix = params[f"function.{name}"]
            params[f"function.{name}"] = normal(*matrix.shape) / (
                matrix.shape[-2] ** 0.5 if matrix.ndim == 3 else 1
            )
    controls, params = ({name: x.to(dtype) for name, x in group.items()} for group in (controls, params))
    return Case(problem, q.to(dtype), k.to(dtype), v.to(dtype), controls, params)


def draw_control(name: str, shape: tuple[int, ...], strong_gates: bool, generator: torch.Generator) -> Tensor:
    """A control inside its declared range, away from the ends."""
    control = CONTROLS[name]
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if control.at_most == 0.0:
        mixed = torch.tensor(GATES, dtype=torch.float64)[
            torch.randint(len(GATES), shape, generator=generator)
        ]
        return mixed if strong_gates else -1.5 * uniform
    return 0.2 + 0.7 * uniform if 0.0 in (control.at_least, control.above) else 2 * uniform - 1


def _move(case: Case, device: str) -> Case:
    if device == "cpu":
        return case
    leaves = {name: x.to(device) for name, x in case.leaves().items()}
    state = None if case.state is None else case.state.to(device)
    return dataclasses.replace(case, state=state).with_leaves(leaves)
