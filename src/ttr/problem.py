"""The regression problem that defines a sequence layer, and the three axes it is composed from.

A causal layer memorises the pairs (k_i, v_i) seen so far by a weighted regression and retrieves with a query
(Wang, Shi, Fox, "Test-time regression", arXiv 2501.12352):

    m_t = argmin_{m in M}  1/2 sum_{i<=t} gamma_i^(t) || v_i - m(k_i) ||^2          y_t = m_t(q_t)

    weights   gamma_i^(t)     how much pair i counts when the query of token t reads
    function  M               what the memory can represent
    solver    argmin          how well, and how, the regression is solved

A ``Problem`` is one point of that product. It holds numbers, strings and components, never a tensor; tensors come with
the call, as *controls* (one per token) or as *params* (one per layer).

Letters used for shapes everywhere: B batch, T time, n pairs per token, H heads, K key size, V value size, F feature size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

RESET = -80.0
"""A log decay below this forgets everything: exp(-80) = 2e-35 is nothing beside the pair just written."""


# --------------------------------------------------------------------------------------------------- controls, params
@dataclass(frozen=True)
class Control:
    """A tensor that comes with every token: its axes as letters, whether each pair of a token has its own, its range, and
    whether it is a logarithm, which may be -inf."""

    axes: tuple[str, ...]
    meaning: str
    per_pair: bool = False
    at_most: float | None = None
    at_least: float | None = None
    above: float | None = None
    logarithm: bool = False


CONTROLS: Mapping[str, Control] = {
    "log_decay": Control(("BTH", "BTHK"), "natural log of the retention, acts before token t is written", at_most=0.0, logarithm=True),
    "log_importance": Control(("BTH",), "natural log of the sample weight of pair t", per_pair=True, logarithm=True),
    "step_size": Control(("BTH",), "step of the update that writes pair t", per_pair=True, at_least=0.0),
    "read_key": Control(("BTHK",), "key at which the update reads the memory, k by default", per_pair=True),
    "ridge": Control(("HF", "H", ""), "regulariser; relative to the normalised weights for local fits", above=0.0),
}


@dataclass(frozen=True)
class Parameter:
    """A tensor that a component owns, one per layer: its shape and how it starts."""

    shape: tuple[int, ...]
    init: Callable[[tuple[int, ...], torch.Generator | None], Tensor]
    trainable: bool = True


def constant(value: float) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser that fills with ``value``."""
    return lambda shape, generator: torch.full(shape, float(value))


# ---------------------------------------------------------------------------------------------------------- components
class Component:
    """A member of an axis: a frozen dataclass, hashable, made of numbers, strings and other components.

    A new member is one file in its axis folder. It holds the class, ``examples()`` (small instances, which become rows
    of the laws) and ``worked()`` (one case derived by hand in a comment), and nothing else needs an edit.
    """

    kind: ClassVar[str] = ""
    registry: ClassVar[dict[tuple[str, str], type[Component]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Component.__repr__  # in the class itself, so that dataclass keeps it
        if "kind" not in cls.__dict__ and not cls.__name__.startswith("_"):  # an axis states its kind, a member inherits it
            Component.registry[cls.kind, cls.__name__] = cls

    def __repr__(self) -> str:
        """The class and the fields that differ from their defaults."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != _default(f)]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def controls(self) -> dict[str, str]:
        """The controls this component needs: name -> axes, e.g. ``{"log_decay": "BTH"}``."""
        return {}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        """The tensors this component owns in a layer of these sizes."""
        return {}

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        """Small instances that between them reach every branch of the class: the rows of the laws."""
        raise NotImplementedError(f"{cls.__name__} needs examples(): add small instances of it to its file")

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        """Cases derived by hand in a comment, one per mode: they show a fault that definition and backend share."""
        raise NotImplementedError(f"{cls.__name__} needs worked(): derive one small case by hand in its file")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": self.kind, "type": type(self).__name__} | {name: _pack(value) for name, value in fields.items()}

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Component:
        """The component described by ``to_dict``.

        Raises:
            ValueError: if no component of that kind and type is known here.
        """
        from ttr import registry

        registry.discover()
        kind, name = description.get("kind"), description.get("type")
        cls = Component.registry.get((kind, name))
        if cls is None:
            known = sorted(n for k, n in Component.registry if k == kind)
            raise ValueError(f"There is no {kind} called {name!r} here. Known: {', '.join(known) or 'none'}. Import the file that defines it first.")
        fields = {key: _unpack(value) for key, value in description.items() if key not in ("kind", "type")}
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"{name} has no field {', '.join(unknown)}. It has: {', '.join(f.name for f in dataclasses.fields(cls)) or 'none'}.")
        return cls(**fields)


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _pack(value: Any) -> Any:
    if isinstance(value, Component):
        return value.to_dict()
    return [_pack(item) for item in value] if isinstance(value, tuple) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Component.from_dict(value)
    return tuple(_unpack(item) for item in value) if isinstance(value, list) else value


class Weights(Component):
    """How much pair i counts at token t: log gamma_i^(t) = sum_{i<j<=t} log_retention_j + log_importance_i.

    Declared structure, all that a backend may look at:
        retention: "head" if the past is forgotten at one rate per head, "channel" if at one per key channel, else None.
        window: number of newest pairs that count, the token's own included; None for all of them.
        importance: whether each pair carries a weight of its own.
    """

    kind: ClassVar[str] = "weights"
    retention: ClassVar[Literal["head", "channel"] | None] = None
    window: ClassVar[int | None] = None
    importance: ClassVar[bool] = False

    def log_retention(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor) -> Tensor | None:
        """Log of the share of the past kept at each token, <= 0, -inf at a reset; broadcasts to [B,T,H] or [B,T,H,K].

        None if nothing is forgotten. ``params`` are those that ``parameters`` declares; ``like`` gives dtype and device."""
        return None

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor | None:
        """Log weight of each pair, [B,T,H] or [B,T,n,H]; None if all count alike."""
        return None


class FeatureMap(Component):
    """A map phi applied to queries and keys before a linear function."""

    kind: ClassVar[str] = "feature"
    keeps_channels: ClassVar[bool] = False
    """Whether entry i of phi(x) depends on entry i of x alone, so that a decay per key channel keeps its meaning."""

    def size(self, key_size: int) -> int:
        """Number F of features of a key of size K."""
        return key_size

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """phi(x): [..., H, K] -> [..., H, F]; ``params`` are those that ``parameters`` declares."""
        raise NotImplementedError


class Function(Component):
    """What the memory can represent.

    ``query`` and ``key`` give the vectors that meet in a dot product, scale included; nothing scales outside them.

    Declared structure:
        local_degree: None for a global map, else the degree of the polynomial fitted around each query.
        linear: whether the prediction is linear in the memory's parameters.
        normalized: whether the read-out is divided by that of the same memory with the value 1 (a ratio of two fits).
        keeps_channels: whether key channels reach the memory as channels.
    """

    kind: ClassVar[str] = "function"
    local_degree: ClassVar[int | None] = None
    linear: ClassVar[bool] = False
    normalized: ClassVar[bool] = False
    keeps_channels: ClassVar[bool] = False

    def feature_size(self, key_size: int) -> int:
        """Size F of what ``query`` and ``key`` return."""
        return key_size

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """[..., H, K] -> [..., H, F]."""
        raise NotImplementedError

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """[..., H, K] -> [..., H, F]."""
        raise NotImplementedError


class Solver(Component):
    """How the regression is solved.

    Declared structure:
        weights_act_on: "samples" if the weighted problem of all pairs is solved afresh for every token; "memory" if the
            memory is updated token by token, retention shrinking it before the pair is learned.
        additive: the memory is the plain sum of weighted outer products of keys and values.
        exact: the regularised problem is solved exactly ("global" or "local").
        gradient_at: for a rank-one correction S <- D S + k step (v - S_x^T p)^T: "decayed" if S_x = D S, "old" if S_x = S.
        proximal: the update is the minimiser of the objective about D S, not a gradient step on it.
        pairs_per_token: how many pairs are learned, one after the other, per token.
    """

    kind: ClassVar[str] = "solver"
    weights_act_on: ClassVar[Literal["samples", "memory"]] = "samples"
    additive: ClassVar[bool] = False
    exact: ClassVar[Literal["global", "local"] | None] = None
    gradient_at: ClassVar[Literal["decayed", "old"] | None] = None
    proximal: ClassVar[bool] = False
    pairs_per_token: ClassVar[int] = 1

    def effective_step(self, step_size: Tensor, key: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """The step of the equivalent explicit correction, [..., H], for a written key [..., H, F]."""
        return step_size

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """What the solver minimises (samples) or descends once per pair (memory); see each solver for ``data``."""
        raise NotImplementedError


def scale_or_default(scale: float | None, key_size: int) -> float:
    """The number that multiplies q.k: ``scale``, or K**-0.5 when it is None."""
    return 1.0 / math.sqrt(max(key_size, 1)) if scale is None else scale


# ------------------------------------------------------------------------------------------------------------- problem
@dataclass(frozen=True)
class Problem:
    """Weights x function x solver: one memory.

    Raises:
        ValueError: if the three cannot be combined; the sentence names the remedy.
    """

    weights: Weights
    function: Function
    solver: Solver

    def __post_init__(self) -> None:
        for name, kind in (("weights", Weights), ("function", Function), ("solver", Solver)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be an instance of {kind.__name__}, got {getattr(self, name)!r}. Use a member of that axis.")
        reason = refusal(self.weights, self.function, self.solver)
        if reason:
            raise ValueError(reason)

    @property
    def memory(self) -> Literal["matrix", "moments", "pairs"]:
        """What must be remembered: a matrix S, the moments U and H of an exact solve, or the pairs themselves."""
        if self.function.local_degree is not None or self.weights.window is not None:
            return "pairs"
        return "moments" if self.solver.exact else "matrix"

    def controls(self) -> dict[str, str]:
        """The controls every call must bring: name -> axes, with n inserted for controls of each pair."""
        axes = self.weights.controls() | self.function.controls() | self.solver.controls()
        if self.solver.pairs_per_token == 1:
            return axes
        return {name: a.replace("BT", "BTn") if CONTROLS[name].per_pair else a for name, a in axes.items()}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        """The tensors every call must bring in ``params``: "axis.name" -> Parameter."""
        parts = (("weights", self.weights), ("function", self.function), ("solver", self.solver))
        return {f"{axis}.{name}": p for axis, part in parts for name, p in part.parameters(heads, key_size, value_size).items()}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        return {"weights": self.weights.to_dict(), "function": self.function.to_dict(), "solver": self.solver.to_dict()}

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Problem:
        """The problem described by ``to_dict``.

        Raises:
            ValueError: if an axis is missing or a component unknown.
        """
        missing = {"weights", "function", "solver"} - set(description)
        if missing:
            raise ValueError(f"A problem needs weights, function and solver; {', '.join(sorted(missing))} missing.")
        return Problem(**{axis: Component.from_dict(description[axis]) for axis in ("weights", "function", "solver")})


def refusal(weights: Weights, function: Function, solver: Solver) -> str | None:
    """Why the three cannot be combined, as a sentence that names the remedy; None if they can."""
    w, f, s = (type(part).__name__ for part in (weights, function, solver))
    if function.local_degree is not None and solver.exact != "local":
        return f"{f} is fitted around every query, which {s} cannot do. Use ExactLocalFit, or a global function such as Linear."
    if function.local_degree is None and solver.exact == "local":
        return f"{s} fits around every query, but {f} is one global map. Use ExactRidge for an exact global fit, or a local function."
    if not function.linear and function.local_degree is None and solver.weights_act_on == "samples":
        return f"{s} needs a prediction linear in the memory's parameters, unlike {f}'s. Use Linear, or a solver that takes gradient steps."
    if weights.retention == "channel" and solver.exact:
        return f"{s} needs one weight per pair, and {w} decays each key channel at its own rate. Use Geometric(per='head'), or OneStep or DeltaRule."
    if weights.retention == "channel" and not function.keeps_channels:
        return f"{w} decays key channels, which {f} mixes before they reach the memory. Use Geometric(per='head'), or other features."
    if weights.retention == "channel" and weights.window is not None:
        return "A window keeps pairs with one weight each and cannot decay key channels. Use Geometric(per='head'), or drop the window."
    if weights.window is not None and solver.weights_act_on == "memory":
        return f"{s} cannot take a pair out of its memory again when it leaves the window of {w}. Use Geometric to forget, or OneStep or ExactRidge."
    if function.normalized and not solver.additive:
        return f"A normalised read-out is a ratio of two sums over pairs, which {s} does not build. Use OneStep, or {f} with normalized=False."
    return None


# -------------------------------------------------------------------------------------------------------- worked cases
@dataclass(frozen=True)
class Worked:
    """A case derived by hand: public layout, Dk != Dv, T >= 3, no 0 or 1 that could hide a fault."""

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    y: Tensor
    controls: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
