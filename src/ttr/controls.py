"""The controls: tensors beside q, k and v that a call passes for every token, or once per layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """A tensor that a call passes for every token: its axes as letters, whether each pair of a token has its
    own, its range, whether it is a logarithm, which may be -inf, and whether it is a key, to which the
    function's feature map applies."""

    axes: tuple[str, ...]
    meaning: str
    per_pair: bool = False
    at_most: float | None = None
    at_least: float | None = None
    above: float | None = None
    logarithm: bool = False
    key: bool = False


CONTROLS: dict[str, Control] = {
    "log_decay": Control(
        ("BTH", "BTHK"),
        "natural log of the decay, which acts before token t is written",
        at_most=0.0,
        logarithm=True,
    ),
    "value_log_decay": Control(
        ("BTHV",), "natural log of the decay of every value channel", at_most=0.0, logarithm=True
    ),
    "phase": Control(("BTH", "BTHK"), "angle of a complex decay exp(log_decay + i phase)"),
    "log_importance": Control(
        ("BTH",), "natural log of the sample weight of pair t", per_pair=True, logarithm=True
    ),
    "step_size": Control(
        ("BTH", "BTHP"), "step of the update that writes pair t", per_pair=True, at_least=0.0
    ),
    "read_key": Control(
        ("BTHK",), "key at which the update reads the memory, k by default", per_pair=True, key=True
    ),
    "erase_key": Control(
        ("BTHK",), "key at which the update subtracts what it read, k by default", per_pair=True, key=True
    ),
    "write": Control(("BTHV",), "gate on every channel of the written value", per_pair=True),
    "momentum": Control(("BTH",), "decay factor of the running update", at_least=0.0),
    "momentum_step": Control(("BTH",), "step with which the running update enters the memory", at_least=0.0),
    "trapezoid": Control(
        ("BTH",), "share of the step that goes to the newer end of the interval", at_least=0.0, at_most=1.0
    ),
    "mix": Control(
        ("BTH",), "share of the ridge read-out beside that of linear attention", at_least=0.0, at_most=1.0
    ),
    "read_step": Control(
        ("BTH",), "factor on the steps of the chunk so far, at the token that reads", at_least=0.0
    ),
    "precond_log_decay": Control(
        ("BTH",), "natural log of the decay of the preconditioner", at_most=0.0, logarithm=True
    ),
    "precond_step": Control(("BTH",), "weight of the squared key in the preconditioner", at_least=0.0),
    "threshold": Control(
        ("BTH",), "norm of the error beyond which a robust loss grows no faster than the error", above=0.0
    ),
    "transport_key": Control(("BTHK",), "key of the reflection that transports the older keys"),
    "ridge": Control(
        ("HF", "H", ""), "regulariser; relative to the normalised weights for local fits", above=0.0
    ),
    "slope": Control(("BTHK",), "learned slope that replaces the solution of the local fit"),
    "level_weight": Control(("BTHL",), "weight of every Fenwick level at the token that reads"),
}

LETTERS = "BTHKVLP"
"""The letters for the axes of a control of every token: see ``ttr.problem``; L levels, P groups of
parameters."""

ARGUMENTS = ("problem", "q", "k", "v", "params", "state", "return_state", "cu_seqlens", "engine", "inplace")
"""Names that are arguments of a call and cannot name a control."""


def declare(name: str, control: Control) -> None:
    """Declare a control that a component of your own needs; call this in the file of the component, above its
    class.

    Raises:
        ValueError: if the name is taken, or the control has no axes for batch and tokens.
    """
    if (
        not isinstance(control, Control)
        or not control.axes
        or any(axes[:2] != "BT" or set(axes) - set(LETTERS) for axes in control.axes)
    ):
        raise ValueError(
            f"A control has axes that begin with BT, of the letters {LETTERS}, got "
            f"{control!r}. A tensor that is the same for every token "
            "is a parameter of the component."
        )
    if not str(name).isidentifier() or name in ARGUMENTS or CONTROLS.get(name, control) != control:
        raise ValueError(
            f"A control cannot be called {name!r}, which is no identifier, reserved, or declared "
            "otherwise. Use another name."
        )
    CONTROLS[name] = control
