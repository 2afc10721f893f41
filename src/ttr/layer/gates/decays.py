"""Gates that compute log_decay and similar controls from the token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ttr.component import Matrix, Parameter, constant
from ttr.controls import CONTROLS
from ttr.layer.initialisers import fan_in, log_uniform_rates, time_step_bias
from ttr.layer.part import Gate, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class MambaDecay(Gate):
    """log_decay = -exp(rate) dt per head, dt = softplus(W x + bias) (Mamba-2, arXiv 2405.21060; Gated
    DeltaNet, 2412.06464); or another control of that form, such as precond_log_decay (2604.21100).

    At initialisation exp(rate) is uniform between ``slowest`` and ``fastest``, and dt at x = 0 log-uniform in
    [0.001, 0.1]. The dt of log_decay is available to other parts as the stream ``time_step``.
    """

    control: str = "log_decay"
    slowest: float = 0.0
    fastest: float = 16.0

    axes: ClassVar[str] = "BTH"

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.control, "time_step") if self.control == "log_decay" else (self.control,)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Matrix((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), time_step_bias()),
            "rate": Parameter((sizes.heads,), log_uniform_rates(self.slowest, self.fastest)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        time_step = softplus(wide(linear(streams["x"], params["weight"])) + wide(params["bias"]))
        decay = -wide(params["rate"]).exp() * time_step
        return dict(zip(self.makes, (decay, time_step)))

    @classmethod
    def examples(cls) -> tuple[MambaDecay, ...]:
        return (cls(), cls("precond_log_decay", slowest=1.0))


@dataclass(frozen=True)
class KDADecay(Gate):
    """log_decay = -exp(rate) softplus(W2 W1 x + bias) per head and key channel (Kimi Delta Attention, arXiv
    2510.26692), or value_log_decay per value channel.

    W1 maps to ``rank`` channels, by default the value size; there is one rate per head.
    """

    control: Literal["log_decay", "value_log_decay"] = "log_decay"
    rank: int | None = None
    slowest: float = 1.0
    fastest: float = 16.0

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.control,)

    @property
    def axes(self) -> str:
        return CONTROLS[self.control].axes[-1]

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank, channels = self.rank or sizes.value_size, sizes.control(self.axes)
        return {
            "down": Matrix((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Matrix((*channels, rank), fan_in(rank)),
            "bias": Parameter(channels, time_step_bias()),
            "rate": Parameter((sizes.heads,), log_uniform_rates(self.slowest, self.fastest)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(linear(streams["x"], params["down"]), params["up"])
        rate = wide(params["rate"]).exp()[:, None]
        return {self.control: -rate * softplus(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[KDADecay, ...]:
        return (cls(), cls(rank=3), cls("value_log_decay"))


@dataclass(frozen=True)
class Mamba3Decay(Gate):
    """log_decay = -max(softplus(A x), floor) dt per head, dt = softplus(W x + bias): the rate, too, depends
    on the token (Mamba-3, arXiv 2603.15569).

    At initialisation dt is log-uniform in [0.001, 0.1] at x = 0; it is available to other parts as the stream
    ``time_step``.
    """

    floor: float = 1e-4

    makes: ClassVar[tuple[str, ...]] = ("log_decay", "time_step")
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.d_model)
        return {
            "weight": Matrix(shape, fan_in(sizes.d_model)),
            "bias": Parameter(shape[:1], time_step_bias()),
            "rate": Matrix(shape, fan_in(sizes.d_model)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        x = streams["x"]
        time_step = softplus(wide(linear(x, params["weight"])) + wide(params["bias"]))
        return {
            "log_decay": -softplus(wide(linear(x, params["rate"]))).clamp(min=self.floor) * time_step,
            "time_step": time_step,
        }

    @classmethod
    def examples(cls) -> tuple[Mamba3Decay, ...]:
        return (cls(), cls(floor=0.1))


@dataclass(frozen=True)
class HGRNDecay(Gate):
    """log_decay = log(b + (1 - b) sigmoid(k)) per key channel, where k is the output of the projection
    (HGRN2, arXiv 2404.07904).

    The bound b = sigmoid(bound) is learned per channel and starts at layer / layers, so that higher layers
    remember longer; the lowest layer has none.
    """

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1 or sizes.key_heads != sizes.heads:
            raise ValueError(
                "HGRNDecay computes the decay of a head from its key and needs one key per head. "
                f"Use key_heads = {sizes.heads} and one pair per token."
            )
        if not sizes.layer:
            return {}
        return {
            "bound": Parameter(
                (sizes.heads, sizes.key_size), constant(math.log(sizes.layer / (sizes.layers - sizes.layer)))
            )
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        log_gate = logsigmoid(wide(streams["k"]))
        if "bound" in params:
            bound = wide(params["bound"])
            log_gate = torch.logaddexp(logsigmoid(bound), logsigmoid(-bound) + log_gate)
        return {"log_decay": log_gate}

    @classmethod
    def examples(cls) -> tuple[HGRNDecay, ...]:
        return (cls(),)


@dataclass(frozen=True)
class RWKV6Decay(Gate):
    """log_decay = -exp(W2 tanh(W1 x) + bias) per head and key channel (RWKV-6, arXiv 2404.05892).

    At initialisation and x = 0 the log rates are evenly spaced from ``slowest`` to ``fastest`` over the
    channels of a head.
    """

    rank: int = 64
    slowest: float = -6.0
    fastest: float = -1.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        channels = (sizes.heads, sizes.key_size)

        def rates(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return torch.linspace(self.slowest, self.fastest, shape[1]).repeat(shape[0], 1)

        return {
            "down": Matrix((self.rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Matrix((*channels, self.rank), fan_in(self.rank)),
            "bias": Parameter(channels, rates),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(torch.tanh(linear(streams["x"], params["down"])), params["up"])
        return {"log_decay": -torch.exp(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[RWKV6Decay, ...]:
        return (cls(), cls(rank=2, slowest=-3.0))


@dataclass(frozen=True)
class RWKV7Decay(Gate):
    """log_decay = -fastest sigmoid(W2 tanh(W1 x_decay) + bias) per head and key channel (RWKV-7, arXiv
    2503.14456).

    No decay is below exp(-fastest), 0.545 by default. W1 maps to ``rank`` channels, by default the key size.
    The biases start between -5.5 and 0.5, rising over the channels of the layer, later in deeper layers.
    """

    rank: int | None = None
    fastest: float = math.exp(-0.5)

    reads: ClassVar[tuple[str, ...]] = ("x_decay",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def __post_init__(self) -> None:
        if not self.fastest > 0:
            raise ValueError(
                f"RWKV7Decay(fastest={self.fastest}) has no decay. Use a number above 0, or Uniform weights."
            )

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank, channels = self.rank or sizes.key_size, (sizes.heads, sizes.key_size)
        power = 1 + (sizes.layer / max(sizes.layers - 1, 1)) ** 0.3

        def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return (-5.5 + 6 * torch.linspace(0, 1, math.prod(shape)) ** power).reshape(shape)

        return {
            "down": Matrix((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Matrix((*channels, rank), fan_in(rank)),
            "bias": Parameter(channels, init),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(torch.tanh(linear(streams["x_decay"], params["down"])), params["up"])
        return {"log_decay": -self.fastest * torch.sigmoid(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[RWKV7Decay, ...]:
        return (cls(), cls(rank=2, fastest=2.0))
