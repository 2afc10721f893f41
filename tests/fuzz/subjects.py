"""The subject of a call, a memory or a layer, run by the library along the route of the call, and by the
definition, once, in float64."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

import ttr
from tests.fuzz.call import Call
from tests.fuzz.routes import LAYERS, ROUTES, Caller, Result, bounds
from tests.fuzz.tensors import build, each, laid_out
from ttr.dispatch import choose
from ttr.engines.engine import Engine
from ttr.inputs import Inputs
from ttr.nn import Mixer
from ttr.oracle import _sequence, oracle
from ttr.prepare import prepare
from ttr.problem import Problem


@dataclass(frozen=True)
class Noise:
    """Relative noise of normal numbers."""

    relative: float
    generator: torch.Generator

    def on(self, x: Tensor) -> Tensor:
        return x * (1 + self.relative * torch.randn(x.shape, generator=self.generator, dtype=x.dtype))


class Subject(ABC):
    """The subject of a call; ``leaves`` are its input tensors, by name."""

    leaves: dict[str, Tensor]
    call: Call
    differentiates: bool = True
    """Whether the whole route is differentiable."""
    fixed: tuple[str, ...] = ()
    """Leaves that get no gradients on the route."""

    @abstractmethod
    def run(self, caller: Caller) -> Result:
        """Outputs and state along the route of the call."""

    rounds: bool = True
    """Whether the definition can also run in narrower arithmetic, which shows the rounding of intermediate
    results, unlike noise in the inputs."""

    @abstractmethod
    def define(
        self, noise: Noise | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Result, dict[str, Tensor]]:
        """Outputs and state by the definition, and the leaves of its graph: with noise in the leaves if there
        is any, or in narrower arithmetic."""

    @abstractmethod
    def engine(self) -> str:
        """The engine or module that runs it."""

    def _as_leaf(self, x: Tensor) -> Tensor:
        """The tensor itself, or as a leaf of the graph if gradients are wanted."""
        return x.detach().requires_grad_() if self.call.mode == "grad" else x


def _plain(x: Tensor, noise: Noise | None) -> Tensor:
    """A contiguous float64 copy with relative noise."""
    x = x.detach().to(torch.float64).contiguous().clone()
    return x if noise is None else noise.on(x)


def _with_state(result: object) -> Result:
    return result if isinstance(result, tuple) else (result, None)


class Memory(Subject):
    def __init__(self, call: Call, problem: Problem) -> None:
        self.call, self.route = call, ROUTES[call.entry]
        self.differentiates, self.rounds, self.fixed = (
            self.route.differentiates,
            call.lengths is None,
            self.route.fixed,
        )
        case = build(call, problem)
        learned = case.leaves()  # except log weights of -inf, of empty slots
        self.case = each(case, lambda name, x: self._as_leaf(x) if name in learned else x)
        self.leaves = self.case.leaves()

    def run(self, caller: Caller) -> Result:
        return self.route.run(caller, self.case)

    def define(
        self, noise: Noise | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Result, dict[str, Tensor]]:
        plain = each(self.case, lambda name, x: _plain(x, noise))
        plain = plain.differentiable() if self.call.mode == "grad" else plain
        expected = self.route.expected(self.call, plain)
        if dtype != torch.float64:
            x = expected
            inputs = prepare(
                x.problem,
                x.q,
                x.k,
                x.v,
                x.params,
                x.state,
                None,
                x.controls,
                dtype=torch.promote_types(dtype, torch.float32),
            )
            return _sequence(x.problem, inputs), plain.leaves()
        streams = {"return_state": plain.problem.function.causal, "cu_seqlens": bounds(self.call)}
        return _with_state(oracle(plain.problem, **expected.arguments(), **streams)), plain.leaves()

    def engine(self) -> str:
        x = self.case
        with contextlib.suppress(Exception):
            inputs = prepare(x.problem, x.q, x.k, x.v, x.params, x.state, bounds(self.call), x.controls)
            return choose(x.problem, inputs, self.call.chosen()).name
        return self.call.engine


class Definition(Engine):
    """Run layers with the oracle in place of an engine."""

    name = "definition"

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        return None

    def run(self, problem: Problem, x: Inputs) -> Result:
        if not problem.function.causal:
            return oracle(problem, x.q, x.k, x.v, params=x.params, **x.controls), x.state
        return oracle(problem, x.q, x.k, x.v, params=x.params, state=x.state, return_state=True, **x.controls)


class Layer(Subject):
    def __init__(self, call: Call, problem: Problem) -> None:
        self.call = call
        torch.manual_seed(call.seed)
        memory = problem if call.problem not in ttr.catalogue else ttr.catalogue[call.problem]
        heads = dict(
            zip(("heads", "key_heads", "value_heads"), (call.heads // group for group in call.groups))
        )
        layer = Mixer(
            6,
            memory,
            **heads,
            key_size=call.key,
            value_size=call.value,
            layer=1,
            layers=3,
            engine=call.chosen(),
        )
        with torch.no_grad():
            for parameter in layer.parameters():  # away from their uniform initial values
                parameter += 0.1 * torch.rand_like(parameter)
        self.layer = layer.to(getattr(torch, call.dtype)).requires_grad_(call.mode == "grad")
        x = torch.randn(call.batch, call.time, 6).to(getattr(torch, call.dtype))
        self.x = self._as_leaf(laid_out(call, "x", x))
        self.leaves = {"x": self.x, **dict(self.layer.named_parameters())}

    def run(self, caller: Caller) -> Result:
        return LAYERS[self.call.entry](caller, self.layer, self.x)

    def define(
        self, noise: Noise | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Result, dict[str, Tensor]]:
        layer = copy.deepcopy(self.layer).to(dtype)
        layer.engine = Definition()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(_plain(parameter, noise))
        x = self._as_leaf(_plain(self.x, noise).to(dtype))
        found = layer(x, return_state=layer.problem.function.causal, cu_seqlens=bounds(self.call))
        return _with_state(found), {"x": x, **dict(layer.named_parameters())}

    def engine(self) -> str:
        return f"{self.call.engine} in a layer"
