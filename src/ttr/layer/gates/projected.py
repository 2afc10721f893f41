"""Gates g(W x + bias): a function of a linear map of the layer's input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ttr.component import Matrix, Parameter, constant
from ttr.controls import CONTROLS
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide

AXES = {"head": "BTH", "channel": "BTHK", "group": "BTHP"}


@dataclass(frozen=True)
class _Projected(Gate):
    """z = W x + bias for a control: one per token, or one per pair if the control has one for every pair.

    Args:
        control: the control it computes.
        per: for a control that allows several axes: one number per head ("head"), per head and key channel
            ("channel"), or per head and group of the function's parameters ("group").
        rank: W = W2 W1, where W1 maps to this many channels; None for a single matrix.
        bias: initial value of the bias; None for no bias.
    """

    control: str
    per: Literal["head", "channel", "group"] = "head"
    rank: int | None = None
    bias: float | None = None

    def __post_init__(self) -> None:
        axes = CONTROLS[self.control].axes if self.control in CONTROLS else ()
        if not any(choice.startswith("BT") for choice in axes):
            raise ValueError(
                f"{type(self).__name__}({self.control!r}) is not a control that comes with every token. "
                "Use one of ttr.controls.CONTROLS, or declare it by ttr.controls.declare."
            )
        if len(axes) > 1 and AXES[self.per] not in axes:
            known = " or ".join(repr(per) for per, choice in AXES.items() if choice in axes)
            raise ValueError(
                f"{type(self).__name__}({self.control!r}, per={self.per!r}) is not possible. Use per={known}."
            )

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.control,)

    @property
    def axes(self) -> str:
        axes = CONTROLS[self.control].axes
        return axes[0] if len(axes) == 1 else AXES[self.per]

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape of the control without batch and time."""
        pairs = sizes.per_pair if CONTROLS[self.control].per_pair else ()
        return (*pairs, *sizes.control(self.axes))

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return self.weights(self.shape(sizes), sizes.d_model) | self.biases(self.shape(sizes))

    def weights(self, shape: tuple[int, ...], inputs: int) -> dict[str, Parameter]:
        """W, or W1 and W2."""
        if self.rank is None:
            return {"weight": Matrix((*shape, inputs), fan_in(inputs))}
        return {
            "down": Matrix((self.rank, inputs), fan_in(inputs)),
            "up": Matrix((*shape, self.rank), fan_in(self.rank)),
        }

    def biases(self, shape: tuple[int, ...]) -> dict[str, Parameter]:
        """The bias, if there is one."""
        return {} if self.bias is None else {"bias": Parameter(shape, constant(self.bias))}

    def logits(self, params: Params, streams: Streams) -> Tensor:
        """z [B,T,(n,)H,...]."""
        x = streams["x"]
        if self.rank is None:
            z = linear(x, params["weight"])
        else:
            z = linear(linear(x, params["down"]), params["up"])
        return wide(z) if self.bias is None else wide(z) + wide(params["bias"])

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {self.control: self.activated(self.logits(params, streams))}

    def activated(self, z: Tensor) -> Tensor:
        """g(z)."""
        raise NotImplementedError


@dataclass(frozen=True)
class LinearGate(_Projected):
    """W x + bias: phases of a complex decay (GateLoop, arXiv 2311.01927), or, with a tanh soft cap between
    -cap and cap (2503.13427), the exponential input gate of xLSTM (2405.04517).

    With ``zero`` W starts at 0, so that at initialisation the bias alone sets the gate.
    """

    cap: float | None = None
    zero: bool = False

    def weights(self, shape: tuple[int, ...], inputs: int) -> dict[str, Parameter]:
        drawn = super().weights(shape, inputs)
        return (
            {name: replace(spec, init=constant(0.0)) for name, spec in drawn.items()} if self.zero else drawn
        )

    def activated(self, z: Tensor) -> Tensor:
        return z if self.cap is None else soft_cap(z, self.cap)

    @classmethod
    def examples(cls) -> tuple[LinearGate, ...]:
        return (
            cls("phase"),
            cls("phase", per="channel"),
            cls("log_importance", bias=-10.0, cap=15.0, zero=True),
        )


@dataclass(frozen=True)
class SigmoidGate(_Projected):
    """scale sigmoid(W x + bias): the step size of the delta rule (DeltaNet, arXiv 2406.06484), the momentum
    of Titans (2501.00663), the mix of Gated KalmaNet (2511.21016), the trapezoid of Mamba-3 (2603.15569), the
    write gate of Gated DeltaNet-2 (2605.22791).

    A step size with ``scale`` 2 admits reflections at a unit key: negative eigenvalues of the transition
    (2411.12537).
    """

    scale: float = 1.0

    def activated(self, z: Tensor) -> Tensor:
        share = torch.sigmoid(z)
        return share if self.scale == 1 else self.scale * share

    @classmethod
    def examples(cls) -> tuple[SigmoidGate, ...]:
        return (cls("step_size"), cls("step_size", scale=2.0), cls("momentum", bias=0.0), cls("write"))


@dataclass(frozen=True)
class LogSigmoidGate(_Projected):
    """scale log sigmoid(W x + bias): a decay (Forgetting Transformer, arXiv 2503.02130; MesaNet, 2506.05233),
    of every key channel with a low rank and the scale 1/16 (GLA, 2312.06635), or the weight of a pair
    (MesaNet; Gated KalmaNet, 2511.21016, where scale 2 is a sigmoid on key and value).

    The bias of the first head starts at ``bias``, 0 for a sigmoid of 1/2, and that of the last at ``bias`` +
    ``spread``. ``cap`` is a tanh soft cap that bounds W x + bias between -cap and cap (xLSTM, 2503.13427).
    """

    bias: float | None = 0.0
    spread: float = 0.0
    cap: float | None = None
    scale: float = 1.0

    def biases(self, shape: tuple[int, ...]) -> dict[str, Parameter]:
        if not self.spread:
            return super().biases(shape)

        def spread(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return torch.linspace(self.bias or 0.0, (self.bias or 0.0) + self.spread, shape[0])

        return {"bias": Parameter(shape, spread)}

    def activated(self, z: Tensor) -> Tensor:
        log_share = logsigmoid(z if self.cap is None else soft_cap(z, self.cap))
        return log_share if self.scale == 1 else self.scale * log_share

    @classmethod
    def examples(cls) -> tuple[LogSigmoidGate, ...]:
        return (
            cls("log_decay"),
            cls("log_decay", bias=3.0, spread=3.0, cap=15.0),
            cls("log_decay", per="channel", rank=2, scale=0.25),
            cls("log_importance", scale=2.0),
        )


@dataclass(frozen=True)
class SoftplusGate(_Projected):
    """softplus(W x + bias): the step sizes of the groups of a function's parameters (LaCT, arXiv 2505.23884),
    or the threshold of a robust loss (for the data-dependent one of Yaad, 2504.13173).

    ``ttr.layer.initialisers.inverse_softplus`` computes the bias that gives a wanted value at x = 0.
    """

    bias: float | None = 0.0

    def activated(self, z: Tensor) -> Tensor:
        return softplus(z)

    @classmethod
    def examples(cls) -> tuple[SoftplusGate, ...]:
        return (cls("threshold", bias=0.5), cls("step_size", per="group", bias=-7.0))


@dataclass(frozen=True)
class LevelWeight(Gate):
    """level_weight = softplus(c * W x) per head and level, with a learned c, initially 1 (log-linear Mamba-2,
    arXiv 2506.04761)."""

    makes: ClassVar[tuple[str, ...]] = ("level_weight",)
    axes: ClassVar[str] = "BTHL"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.levels)
        return {
            "weight": Matrix((*shape, sizes.d_model), fan_in(sizes.d_model)),
            "strength": Parameter(shape, constant(1.0)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(streams["x"], params["weight"])
        return {"level_weight": softplus(wide(params["strength"]) * wide(logits))}

    @classmethod
    def examples(cls) -> tuple[LevelWeight, ...]:
        return (cls(),)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap tanh(x / cap): bounded between -cap and cap, and close to x for small x."""
    return cap * torch.tanh(x / cap)
