"""The regression problem that defines a sequence layer, and the three axes it is composed from.

A causal layer memorises the pairs (k_i, v_i) seen so far by a weighted regression and retrieves with a query
(Wang, Shi, Fox, "Test-time regression", arXiv 2501.12352):

    m_t = argmin_{m in M}  1/2 sum_{i<=t} gamma_i^(t) || v_i - m(k_i) ||^2          y_t = m_t(q_t)

    weights   gamma_i^(t)     how much pair i counts when the query of token t reads
    function  M               what the memory can represent
    solver    argmin          how well, and how, the regression is solved

A ``Problem`` is one point of that product. It holds numbers, strings and components, never a tensor; tensors
come with the call, as *controls* (one per token) or as *params* (one per layer).

Letters used for shapes everywhere: B batch, T time, n pairs per token, H heads, K key size, V value size, F
feature size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ttr.axes import Function, Pair, Solver, Weights
from ttr.component import Component, Parameter
from ttr.controls import CONTROLS
from ttr.decay import RESET
from ttr.feature_map import FeatureMap
from ttr.forms import Form, Landmarks, LinearRecurrence, Network, Pairs
from ttr.forms.linear_recurrence import plain
from ttr.inputs import Inputs

__all__ = [
    "RESET",
    "FeatureMap",
    "Function",
    "Pair",
    "Problem",
    "Solver",
    "Weights",
    "refusal",
    "scale_or_default",
]


@dataclass(frozen=True)
class Problem:
    """Weights x function x solver: one memory.

    Attributes:
        form: what it becomes, the class of ttr.forms that its components need: pairs before any other, since
            from them all can be made, and what is special before what is general.

    Raises:
        ValueError: if the three cannot be combined; the sentence names the remedy.
    """

    weights: Weights
    function: Function
    solver: Solver
    form: type[Form] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, kind in (("weights", Weights), ("function", Function), ("solver", Solver)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} must be an instance of {kind.__name__}, got "
                    f"{getattr(self, name)!r}. Use a member of that axis."
                )
        reason = refusal(self.weights, self.function, self.solver) or self._undeclared()
        if reason:
            raise ValueError(reason)
        if not torch.compiler.is_compiling():  # torch cannot trace the check
            self._check_hash()
        needed = [part.form for part in (self.weights, self.function, self.solver) if part.form is not None]
        pairs = [form for form in needed if issubclass(form, Pairs)]
        form = max(pairs or needed or [LinearRecurrence], key=lambda form: len(form.__mro__))
        object.__setattr__(self, "form", form)

    def _check_hash(self) -> None:
        try:
            hash(self)
        except TypeError as failure:
            raise ValueError(
                f"This problem cannot be hashed: {failure}. Use frozen dataclasses of numbers, "
                "strings and tuples."
            ) from failure

    def _undeclared(self) -> str | None:
        """Why its controls are not declared as it needs them, as a sentence; None if they are."""
        for part in (self.weights, self.function, self.solver):
            for name, axes in part.controls().items():
                if name not in CONTROLS:
                    return (
                        f"The control {name!r} of {part!r} is not declared. Use "
                        f"ttr.controls.declare({name!r}, Control(({axes!r},), "
                        "'what it means')) in the file of the component (in the package: in ttr/controls.py)."
                    )
                if axes not in CONTROLS[name].axes:
                    return (
                        f"The control {name!r} has axes {' or '.join(CONTROLS[name].axes)}, and "
                        f"{part!r} asks for {axes}. "
                        "Use one of these, or a control of its own."
                    )
        return None

    @property
    def recurrence(self) -> Weights | Function | Solver | None:
        """The component whose ``learn`` and ``read`` define the memory; None if an objective does."""
        return next((part for part in (self.weights, self.function, self.solver) if part.folds), None)

    def state_shapes(self, key_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        """The tensors of the state of a memory that does not store the pairs: name -> shape behind batch and
        heads."""
        size = self.function.feature_size(key_size)
        memory = self.function.memory(size, value_size)
        for part in (self.weights, self.solver):
            memory = memory | part.state(size, value_size, self.function.memory(size, value_size))
        return memory

    def sizes(self) -> dict[str, int]:
        """The sizes of the axes of controls that no other tensor of a call has."""
        return {"P": 1} | self.weights.sizes() | self.function.sizes() | self.solver.sizes()

    def begin(self, x: Inputs) -> LinearRecurrence:
        """The recurrence of a call that no component has lowered yet."""
        return plain(x, self.solver.pairs_per_token, self.weights.importance_factor(x))

    def lower(self, x: Inputs, begun: LinearRecurrence | None = None) -> Form:
        """The form of the problem for a call, an instance of ``form``. All recurrences come from the linear
        one; ``begun`` is that of ``begin``, if it has been made already."""
        if issubclass(self.form, Pairs):
            return self.function.lower_pairs(self.form.begin(x, self.weights.window), x)
        if issubclass(self.form, Network):
            return self.function.lower_network(self.form, x)
        if self.form is Landmarks:
            return self.function.lower_whole(x)
        recurrence = self.begin(x) if begun is None else begun
        for part in (self.function, self.solver, self.weights):
            recurrence = part.lower(recurrence, self.function, x)
        return recurrence if self.form is LinearRecurrence else self.form.of(recurrence, x)

    def controls(self) -> dict[str, str]:
        """The controls every call must bring: name -> axes, with n inserted for controls of each pair."""
        axes = self.weights.controls() | self.function.controls() | self.solver.controls()
        axes = {name: a for name, a in axes.items() if name not in self.solver.replaces()}
        if self.solver.pairs_per_token == 1:
            return axes
        return {name: a.replace("BT", "BTn") if CONTROLS[name].per_pair else a for name, a in axes.items()}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        """The tensors every call must bring in ``params``: "axis.name" -> Parameter."""
        parts = (("weights", self.weights), ("function", self.function), ("solver", self.solver))
        return {
            f"{axis}.{name}": p
            for axis, part in parts
            for name, p in part.parameters(heads, key_size, value_size).items()
        }

    def at_layer(self, layer: int, layers: int) -> Problem:
        """The problem of layer ``layer`` of ``layers``, counted from 0."""
        return Problem(*(part.at_layer(layer, layers) for part in (self.weights, self.function, self.solver)))

    def at_heads(self, first: int, heads: int) -> Problem:
        """The problem of some of ``heads``, from number ``first`` on, counted from 0."""
        return Problem(*(part.at_heads(first, heads) for part in (self.weights, self.function, self.solver)))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        return {
            "weights": self.weights.to_dict(),
            "function": self.function.to_dict(),
            "solver": self.solver.to_dict(),
        }

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Problem:
        """The problem described by ``to_dict``.

        Raises:
            ValueError: if an axis is missing or a component unknown.
        """
        missing = {"weights", "function", "solver"} - set(description)
        if missing:
            raise ValueError(
                f"A problem needs weights, function and solver; {', '.join(sorted(missing))} missing."
            )
        return Problem(
            **{axis: Component.from_dict(description[axis]) for axis in ("weights", "function", "solver")}
        )


def refusal(weights: Weights, function: Function, solver: Solver) -> str | None:
    """Why the three cannot be combined, as a sentence that names the remedy; None if they can."""
    w, f, s = (type(part).__name__ for part in (weights, function, solver))
    if function.local_degree is not None and solver.exact != "local":
        return (
            f"{f} is fitted around every query, which {s} cannot do. Use ExactLocalFit, or a global "
            "function such as Linear."
        )
    if function.local_degree is None and solver.exact == "local":
        return (
            f"{s} fits around every query, but {f} is one global map. Use ExactRidge for an exact global "
            "fit, or a local function."
        )
    trains = solver.form is not None and issubclass(solver.form, Network)
    if not function.linear and function.local_degree is None and not trains:
        return (
            f"{s} needs a prediction linear in the memory's parameters, unlike {f}'s. Use Linear, or "
            "GradientDescent."
        )
    if weights.retention == "channel" and solver.exact:
        return (
            f"{s} needs one weight per pair, and {w} decays each key channel at its own rate. Use "
            "Geometric(per='head'), or OneStep or DeltaRule."
        )
    if weights.retention == "channel" and not function.keeps_channels:
        return (
            f"{w} decays key channels, which {f} mixes before they reach the memory. Use "
            "Geometric(per='head'), or other features."
        )
    if weights.retention == "channel" and weights.window is not None:
        return (
            "A window stores pairs with one weight each and cannot decay key channels. Use "
            "Geometric(per='head'), or drop the window."
        )
    if weights.window is not None and solver.weights_act_on == "memory":
        return (
            f"{s} cannot remove a pair from its memory when it leaves the window of {w}. Use "
            "Geometric for a decay, or OneStep or ExactRidge."
        )
    if function.normalized and not solver.additive:
        return (
            f"A normalised read-out is a ratio of two sums over pairs, which {s} does not build. Use "
            f"OneStep, or {f} with normalized=False."
        )
    folding = [type(part).__name__ for part in (weights, function, solver) if part.folds]
    if len(folding) > 1:
        return (
            f"{folding[0]} and {folding[1]} are each a recurrence of their own. Use OneStep with "
            f"{folding[0]}, or Uniform or Geometric with {s}."
        )
    return next(
        (
            reason
            for part in (weights, function, solver)
            if (reason := part.refuses(weights, function, solver)) is not None
        ),
        None,
    )


def scale_or_default(scale: float | None, key_size: int) -> float:
    """The number that multiplies q.k: ``scale``, or K**-0.5 when it is None."""
    return 1.0 / math.sqrt(max(key_size, 1)) if scale is None else scale
