"""A memory and what stands around it: everything between a layer's input and its output but the plain
projections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttr.component import Component
from ttr.problem import Problem
from ttr.surroundings import Controls, Keys, Output, Surrounding
from ttr.surroundings.controls.channel_softplus_decay import ChannelSoftplusDecay
from ttr.surroundings.controls.chunk_average import ChunkAverage
from ttr.surroundings.controls.gated_key import GatedKey
from ttr.surroundings.controls.learned_ridge import LearnedRidge
from ttr.surroundings.controls.linear_phase import LinearPhase
from ttr.surroundings.controls.log_sigmoid_importance import LogSigmoidImportance
from ttr.surroundings.controls.preconditioner_decay import PreconditionerDecay
from ttr.surroundings.controls.preconditioner_step import PreconditionerStep
from ttr.surroundings.controls.projected_slope import ProjectedSlope
from ttr.surroundings.controls.scaled_read_key import ScaledReadKey
from ttr.surroundings.controls.shared_momentum_step import SharedMomentumStep
from ttr.surroundings.controls.sigmoid_mix import SigmoidMix
from ttr.surroundings.controls.sigmoid_momentum import SigmoidMomentum
from ttr.surroundings.controls.sigmoid_step_size import SigmoidStepSize
from ttr.surroundings.controls.sigmoid_trapezoid import SigmoidTrapezoid
from ttr.surroundings.controls.sigmoid_write import SigmoidWrite
from ttr.surroundings.controls.softplus_decay import SoftplusDecay
from ttr.surroundings.controls.softplus_level_weight import SoftplusLevelWeight
from ttr.surroundings.controls.softplus_rates import SoftplusRates
from ttr.surroundings.controls.softplus_threshold import SoftplusThreshold
from ttr.surroundings.controls.transport_key import TransportKey
from ttr.surroundings.controls.value_softplus_decay import ValueSoftplusDecay
from ttr.surroundings.keys.unit_norm import UnitNorm
from ttr.surroundings.output.rms_norm import RMSNorm

PARTS = {"keys": Keys, "controls": Controls, "output": Output}

DEFAULTS: Mapping[tuple[str, str], Controls] = {
    ("phase", "BTH"): LinearPhase(),
    ("phase", "BTHK"): LinearPhase("channel"),
    ("log_decay", "BTH"): SoftplusDecay(),
    ("log_decay", "BTHK"): ChannelSoftplusDecay(),
    ("log_importance", "BTH"): LogSigmoidImportance(),
    ("trapezoid", "BTH"): SigmoidTrapezoid(),
    ("level_weight", "BTHL"): SoftplusLevelWeight(),
    ("step_size", "BTH"): SigmoidStepSize(),
    ("read_key", "BTHK"): ScaledReadKey(),
    ("ridge", "HF"): LearnedRidge(),
    ("erase_key", "BTHK"): GatedKey("erase_key"),
    ("write", "BTHV"): SigmoidWrite(),
    ("value_log_decay", "BTHV"): ValueSoftplusDecay(),
    ("momentum_step", "BTH"): SharedMomentumStep(),
    ("precond_log_decay", "BTH"): PreconditionerDecay(),
    ("precond_step", "BTH"): PreconditionerStep(),
    ("mix", "BTH"): SigmoidMix(),
    ("slope", "BTHK"): ProjectedSlope(),
    ("transport_key", "BTHK"): TransportKey(),
    ("momentum", "BTH"): SigmoidMomentum(),
    ("read_step", "BTH"): ChunkAverage(),
    ("step_size", "BTHP"): SoftplusRates(),
    ("threshold", "BTH"): SoftplusThreshold(),
}
"""Where the controls of a bare problem come from: (name, axes) -> surrounding."""


@dataclass(frozen=True)
class Architecture:
    """A problem, its surroundings, and where the whole was published.

    Args:
        problem: the memory.
        keys: what happens to q, k, v between projection and memory, in this order.
        controls: where every control of the problem comes from.
        output: what happens to y between memory and output projection, in this order.
        source: authors or title of the publication; ``arxiv`` its number and ``year``, empty or 0 where there
            is none.
        original: the module it follows, by its import path.
        verified: what it has been compared with.
        note: in what it differs from the original.

    Raises:
        ValueError: if a control is missing or superfluous, or a surrounding needs a stream that nothing makes
            before it.
    """

    problem: Problem
    keys: tuple[Surrounding, ...] = ()
    controls: tuple[Surrounding, ...] = ()
    output: tuple[Surrounding, ...] = ()
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
                raise ValueError(
                    f"{part} must be a tuple of surroundings from ttr.surroundings.{part}, got {wrong[0]!r}."
                )
        self._check_controls()
        self._check_streams()

    def before_memory(self) -> tuple[Surrounding, ...]:
        """The surroundings in front of the memory, in the order in which they act."""
        first, keys = (
            tuple(step for step in self.keys if step.of_input == of_input) for of_input in (True, False)
        )
        early = tuple(control for control in self.controls if not control.after_keys)
        late = tuple(control for control in self.controls if control.after_keys)
        return (*first, *early, *keys, *late)

    def _check_controls(self) -> None:
        needed = {name: axes.replace("n", "") for name, axes in self.problem.controls().items()}
        made = [control.makes[0] for control in self.controls]
        if sorted(made) != sorted(needed):
            makes, takes = (", ".join(sorted(names)) or "nothing" for names in (made, needed))
            raise ValueError(
                f"controls make {makes}, but the problem takes exactly: {takes}. "
                "Give one surrounding from ttr.surroundings.controls for each."
            )
        for control in self.controls:
            axes = needed[control.makes[0]]
            if axes.startswith("BT") and control.axes != axes:
                raise ValueError(
                    f"{control!r} makes {control.makes[0]} [{','.join(control.axes)}], but the "
                    f"problem takes [{','.join(axes)}]. "
                    "Use a surrounding that makes these axes, or other weights."
                )

    def _check_streams(self) -> None:
        there, remembered = {"x", "position", "q", "k", "v"}, set()
        for step in (*self.before_memory(), *self.output):
            missing = sorted(set(step.reads) - there)
            if missing:
                raise ValueError(
                    f"{step!r} needs the stream {', '.join(missing)}, which nothing before it makes."
                )
            there |= set(step.makes)
            names = set(step.streams) if step.past else set()
            if names & remembered:
                raise ValueError(
                    f"Two steps remember the past of {', '.join(sorted(names & remembered))}. "
                    "Use one that sees more tokens."
                )
            remembered |= names

    @staticmethod
    def of(problem: Problem) -> Architecture:
        """A problem with default surroundings: one parametrisation for each control it needs.

        Where keys meet in the update (a solver that is neither additive nor local), unit keys keep it stable
        and well conditioned; where the read-out is a sum that grows with the sequence (global, not
        normalised), an RMSNorm follows.

        Raises:
            ValueError: if a control has no default surrounding.
        """
        needed = {(name, axes.replace("n", "")) for name, axes in problem.controls().items()}
        lacking = sorted(name for name, axes in needed - set(DEFAULTS))
        if lacking:
            raise ValueError(
                f"There is no default surrounding for {', '.join(lacking)}. Use "
                "ttr.architecture.Architecture(problem, controls=(...))."
            )
        is_global = problem.function.local_degree is None
        return Architecture(
            problem,
            keys=(UnitNorm(),) if is_global and not problem.solver.additive else (),
            controls=tuple(default for key, default in DEFAULTS.items() if key in needed),
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
            ValueError: if there is no problem, a field is unknown, or a component is.
        """
        unknown = set(description) - {f.name for f in dataclasses.fields(Architecture)}
        if "problem" not in description or unknown:
            wrong = f"has no field {', '.join(sorted(unknown))}" if unknown else "needs a problem"
            raise ValueError(f"An architecture {wrong}. Use what Architecture.to_dict returned.")
        parts = {
            part: tuple(Component.from_dict(step) for step in description.get(part, ())) for part in PARTS
        }
        return Architecture(**{**description, "problem": Problem.from_dict(description["problem"])} | parts)
