"""A memory and the parts of the layer around it: everything between input and output except the plain
projections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttr.component import Component
from ttr.layer.gates.decays import KDADecay, MambaDecay
from ttr.layer.gates.keys import GatedKey, ProjectedSlope, ScaledReadKey, TransportKey
from ttr.layer.gates.momentum import SharedMomentumStep
from ttr.layer.gates.projected import LevelWeight, LinearGate, LogSigmoidGate, SigmoidGate, SoftplusGate
from ttr.layer.gates.ridges import LearnedRidge
from ttr.layer.gates.step_sizes import ChunkAverage
from ttr.layer.initialisers import inverse_softplus
from ttr.layer.output.norms import RMSNorm
from ttr.layer.part import Gate, Output, Part, QKVTransform
from ttr.layer.qkv.norms import UnitNorm
from ttr.problem import Problem

PARTS = {"qkv": QKVTransform, "gates": Gate, "output": Output}

DEFAULTS: Mapping[tuple[str, str], Gate] = {
    ("phase", "BTH"): LinearGate("phase"),
    ("phase", "BTHK"): LinearGate("phase", per="channel"),
    ("log_decay", "BTH"): MambaDecay(),
    ("log_decay", "BTHK"): KDADecay(),
    ("log_importance", "BTH"): LogSigmoidGate("log_importance"),
    ("trapezoid", "BTH"): SigmoidGate("trapezoid"),
    ("level_weight", "BTHL"): LevelWeight(),
    ("step_size", "BTH"): SigmoidGate("step_size"),
    ("read_key", "BTHK"): ScaledReadKey(),
    ("ridge", "HF"): LearnedRidge(),
    ("erase_key", "BTHK"): GatedKey("erase_key"),
    ("write", "BTHV"): SigmoidGate("write"),
    ("value_log_decay", "BTHV"): KDADecay("value_log_decay"),
    ("momentum_step", "BTH"): SharedMomentumStep(),
    ("precond_log_decay", "BTH"): MambaDecay("precond_log_decay"),
    ("precond_step", "BTH"): SigmoidGate("precond_step"),
    ("mix", "BTH"): SigmoidGate("mix", bias=0.0),
    ("slope", "BTHK"): ProjectedSlope(),
    ("transport_key", "BTHK"): TransportKey(),
    ("momentum", "BTH"): SigmoidGate("momentum", bias=0.0),
    ("read_step", "BTH"): ChunkAverage(),
    ("step_size", "BTHP"): SoftplusGate("step_size", per="group", bias=inverse_softplus(0.001)),
    ("threshold", "BTH"): SoftplusGate("threshold", bias=0.5),
}
"""The default gates, used when a layer is built from a problem alone: (name, axes) -> gate."""


@dataclass(frozen=True)
class Architecture:
    """A problem, the parts of the layer around it, and where the whole was published.

    Args:
        problem: the memory.
        qkv: transforms of q, k, v between projection and memory, in order.
        gates: the parts that compute the controls of the problem, one gate per control.
        output: the parts applied to y between memory and output projection, in order.
        source: authors or title of the publication. ``arxiv`` is its number and ``year`` its year, "" and 0
            if there is none.
        original: import path of the published module that it follows.
        verified: the implementation that it has been compared with.
        note: how it differs from the original.

    Raises:
        ValueError: if a control is missing or superfluous, or a part needs a stream that no earlier part
            computes.
    """

    problem: Problem
    qkv: tuple[Part, ...] = ()
    gates: tuple[Part, ...] = ()
    output: tuple[Part, ...] = ()
    source: str = ""
    arxiv: str = ""
    year: int = 0
    original: str | None = None
    verified: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            raise ValueError(
                f"problem must be a Problem, got {type(self.problem).__name__}. Use "
                "ttr.Problem(weights=..., function=..., solver=...)."
            )
        for part, kind in PARTS.items():
            wrong = [step for step in getattr(self, part) if not isinstance(step, kind)]
            if wrong:
                raise ValueError(f"{part} must be a tuple of parts from ttr.layer.{part}, got {wrong[0]!r}.")
        self._check_controls()
        self._check_streams()

    def named(self, field: str) -> list[tuple[str, Part]]:
        """The parts of a field with the names of their modules, such as "gates.step_size"; a second part with
        the same name gets a number."""
        names = [part.name for part in getattr(self, field)]
        seen = [names[:place].count(name) for place, name in enumerate(names)]
        return [
            (f"{field}.{name}_{before + 1}" if before else f"{field}.{name}", part)
            for name, before, part in zip(names, seen, getattr(self, field), strict=True)
        ]

    def before_memory(self) -> tuple[Part, ...]:
        """The parts applied before the memory, in order."""
        return tuple(part for _, part in self.named_before_memory())

    def named_before_memory(self) -> list[tuple[str, Part]]:
        """``before_memory`` with the names of the modules."""
        qkv, gates = self.named("qkv"), self.named("gates")
        return [
            *(step for step in qkv if step[1].of_input),
            *(step for step in gates if not step[1].after_qkv),
            *(step for step in qkv if not step[1].of_input),
            *(step for step in gates if step[1].after_qkv),
        ]

    def _check_controls(self) -> None:
        needed = {name: axes.replace("n", "") for name, axes in self.problem.controls().items()}
        made = [gate.makes[0] for gate in self.gates]
        if sorted(made) != sorted(needed):
            makes, takes = (", ".join(sorted(names)) or "nothing" for names in (made, needed))
            raise ValueError(
                f"gates make {makes}, but the problem takes exactly: {takes}. Give one gate from "
                "ttr.layer.gates for each control."
            )
        for gate in self.gates:
            axes = needed[gate.makes[0]]
            if axes.startswith("BT") and gate.axes != axes:
                raise ValueError(
                    f"{gate!r} makes {gate.makes[0]} [{','.join(gate.axes)}], but the "
                    f"problem takes [{','.join(axes)}]. "
                    "Use a gate that makes these axes, or other weights."
                )

    def _check_streams(self) -> None:
        there, remembered = {"x", "position", "q", "k", "v"}, set()
        for step in (*self.before_memory(), *self.output):
            missing = sorted(set(step.reads) - there)
            if missing:
                raise ValueError(
                    f"{step!r} needs the stream {', '.join(missing)}, which no part before it makes."
                )
            there |= set(step.makes)
            names = set(step.streams) if step.past else set()
            if names & remembered:
                raise ValueError(
                    f"Two parts store past tokens of {', '.join(sorted(names & remembered))}. Use one that "
                    "covers more tokens."
                )
            remembered |= names

    @staticmethod
    def of(problem: Problem) -> Architecture:
        """A problem with default parts around it: one gate per control, and norms where they are needed.

        If the update depends on inner products of keys (a solver that is neither additive nor local), keys of
        norm 1 keep it stable and well conditioned; if the read-out is a sum that grows with the sequence
        (global, not normalised), an RMSNorm follows.

        Raises:
            ValueError: if a control has no default gate.
        """
        needed = {(name, axes.replace("n", "")) for name, axes in problem.controls().items()}
        lacking = sorted(name for name, axes in needed - set(DEFAULTS))
        if lacking:
            raise ValueError(
                f"There is no default gate for {', '.join(lacking)}. Use "
                "ttr.layer.Architecture(problem, gates=(...)), or add one to DEFAULTS in the package."
            )
        is_global = problem.function.local_degree is None
        return Architecture(
            problem,
            qkv=(UnitNorm(),) if is_global and not problem.solver.additive else (),
            gates=tuple(default for key, default in DEFAULTS.items() if key in needed),
            output=(RMSNorm(),) if is_global and not problem.function.normalized else (),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return (
            fields
            | {"problem": self.problem.to_dict()}
            | {part: [step.to_dict() for step in getattr(self, part)] for part in PARTS}
        )

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Architecture:
        """The architecture described by ``to_dict``.

        Raises:
            ValueError: if there is no problem, or a field or a component is unknown.
        """
        unknown = set(description) - {f.name for f in dataclasses.fields(Architecture)}
        if "problem" not in description or unknown:
            wrong = f"has no field {', '.join(sorted(unknown))}" if unknown else "needs a problem"
            raise ValueError(f"An architecture {wrong}. Use what Architecture.to_dict returned.")
        parts = {
            part: tuple(Component.from_dict(step) for step in description.get(part, ())) for part in PARTS
        }
        return Architecture(**{**description, "problem": Problem.from_dict(description["problem"])} | parts)
