"""A memory and what stands around it: everything between a layer's input and its output but the plain projections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttr.problem import Component, Problem
from ttr.surroundings import Controls, Keys, Output, Surrounding

PARTS = {"keys": Keys, "controls": Controls, "output": Output}


@dataclass(frozen=True)
class Architecture:
    """A problem, its surroundings, and where the whole was published.

    Args:
        problem: the memory.
        keys: what happens to q, k, v between projection and memory, in this order.
        controls: where every control of the problem comes from.
        output: what happens to y between memory and output projection, in this order.
        source: authors or title of the publication; ``arxiv`` its number and ``year``, empty or 0 where there is none.
        original: the module it follows, by its import path.
        verified: what it has been compared with.
        note: in what it differs from the original.

    Raises:
        ValueError: if a control is missing or superfluous, or a surrounding needs a stream that nothing makes before it.
    """

    problem: Problem
    keys: tuple[Keys, ...] = ()
    controls: tuple[Controls, ...] = ()
    output: tuple[Output, ...] = ()
    source: str = ""
    arxiv: str = ""
    year: int = 0
    original: str | None = None
    verified: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            raise ValueError(f"problem must be a Problem, got {type(self.problem).__name__}. Use ttr.Problem(weights=..., function=..., solver=...).")
        for part, kind in PARTS.items():
            wrong = [step for step in getattr(self, part) if not isinstance(step, kind)]
            if wrong:
                raise ValueError(f"{part} must hold surroundings from ttr.surroundings.{part}, got {wrong[0]!r}.")
        self._check_controls()
        self._check_streams()

    def before_memory(self) -> tuple[Surrounding, ...]:
        """The surroundings in front of the memory, in the order in which they act."""
        early = tuple(control for control in self.controls if not control.after_keys)
        late = tuple(control for control in self.controls if control.after_keys)
        return (*early, *self.keys, *late)

    def _check_controls(self) -> None:
        needed = {name: axes.replace("n", "") for name, axes in self.problem.controls().items()}
        made = [control.makes[0] for control in self.controls]
        missing, extra = sorted(set(needed) - set(made)), sorted(set(made) - set(needed))
        if missing or extra or len(made) != len(needed):
            what = f"needs {', '.join(missing)}, which nothing in controls makes" if missing else f"has no use for {', '.join(extra)}" if extra else "gets a control twice"
            raise ValueError(f"The problem {what}. It takes exactly: {', '.join(needed) or 'no controls'}.")
        for control in self.controls:
            if control.axes.startswith("BT") and control.axes != needed[control.makes[0]]:
                raise ValueError(f"{control!r} makes {control.makes[0]} [{','.join(control.axes)}], but the problem takes [{','.join(needed[control.makes[0]])}]. "
                                 "Use a surrounding of that shape, or the other weights.")

    def _check_streams(self) -> None:
        there, remembered = {"x", "position", "q", "k", "v"}, set()
        for step in (*self.before_memory(), *self.output):
            missing = set(step.reads) - there
            if missing:
                raise ValueError(f"{step!r} needs the stream {', '.join(sorted(missing))}, which nothing before it makes.")
            there |= set(step.makes)
            if step.past:
                if remembered & set(step.streams):
                    raise ValueError(f"Two steps remember the past of {', '.join(sorted(remembered & set(step.streams)))}. Use one with a larger width.")
                remembered |= set(step.streams)

    @staticmethod
    def of(problem: Problem) -> Architecture:
        """A problem with default surroundings: one parametrisation for each control it needs.

        Where a key meets keys in the update (a solver that is neither additive nor local), unit keys keep it stable and well
        conditioned; where the read-out is a sum that grows with the sequence (global, not normalised), an RMSNorm follows.
        """
        from ttr.surroundings.controls.channel_softplus_decay import ChannelSoftplusDecay
        from ttr.surroundings.controls.learned_ridge import LearnedRidge
        from ttr.surroundings.controls.log_sigmoid_importance import LogSigmoidImportance
        from ttr.surroundings.controls.scaled_read_key import ScaledReadKey
        from ttr.surroundings.controls.sigmoid_step_size import SigmoidStepSize
        from ttr.surroundings.controls.softplus_decay import SoftplusDecay
        from ttr.surroundings.keys.unit_norm import UnitNorm
        from ttr.surroundings.output.rms_norm import RMSNorm

        defaults = {("log_decay", "BTH"): SoftplusDecay(), ("log_decay", "BTHK"): ChannelSoftplusDecay(), ("log_importance", "BTH"): LogSigmoidImportance(),
                    ("step_size", "BTH"): SigmoidStepSize(), ("read_key", "BTHK"): ScaledReadKey(), ("ridge", "HF"): LearnedRidge()}
        needed = {(name, axes.replace("n", "")) for name, axes in problem.controls().items()}
        lacking = sorted(name for name, axes in needed - set(defaults))
        if lacking:
            raise ValueError(f"There is no default surrounding for {', '.join(lacking)}. Use ttr.architecture.Architecture(problem, controls=(...)).")
        is_global = problem.function.local_degree is None
        return Architecture(problem, keys=(UnitNorm(),) if is_global and not problem.solver.additive else (),
                            controls=tuple(default for key, default in defaults.items() if key in needed),
                            output=(RMSNorm(),) if is_global and not problem.function.normalized else ())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"problem": self.problem.to_dict()} | {part: [step.to_dict() for step in getattr(self, part)] for part in PARTS}

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Architecture:
        """The architecture described by ``to_dict``.

        Raises:
            ValueError: if there is no problem, a field is unknown, or a component is.
        """
        unknown = set(description) - {f.name for f in dataclasses.fields(Architecture)}
        if "problem" not in description or unknown:
            raise ValueError(f"An architecture needs a problem and has no field {', '.join(sorted(unknown)) or 'else'}. Use what Architecture.to_dict returned.")
        parts = {part: tuple(Component.from_dict(step) for step in description.get(part, ())) for part in PARTS}
        return Architecture(**{**description, "problem": Problem.from_dict(description["problem"])} | parts)
