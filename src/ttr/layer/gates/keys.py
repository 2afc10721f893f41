"""Gates that compute keys: the read key, the erase key, the transport key and the slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ttr.component import Matrix, Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class GatedKey(Gate):
    """The read or erase key as sigmoid(W x) * k, channel by channel, where k is the key that the memory gets
    (Gated DeltaNet-2, arXiv 2605.22791)."""

    of: Literal["read_key", "erase_key"] = "read_key"

    axes: ClassVar[str] = "BTHK"
    after_qkv: ClassVar[bool] = True

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.of,)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Matrix(
                (*sizes.per_pair, sizes.heads, sizes.key_size, sizes.d_model), fan_in(sizes.d_model)
            )
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        gate = torch.sigmoid(wide(linear(streams["x"], params["weight"])))
        return {self.of: gate * repeat_heads(streams["k"], gate.shape[-2])}

    @classmethod
    def examples(cls) -> tuple[GatedKey, ...]:
        return (cls(), cls("erase_key"))


@dataclass(frozen=True)
class ScaledReadKey(Gate):
    """read_key = sigmoid(b) k per head, where k is the key that the memory gets: the update erases less at k
    than it writes (Comba, arXiv 2506.02475)."""

    makes: ClassVar[tuple[str, ...]] = ("read_key",)
    axes: ClassVar[str] = "BTHK"
    after_qkv: ClassVar[bool] = True

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"share": Parameter((sizes.heads,), constant(1.0))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        share = torch.sigmoid(params["share"])[:, None]
        return {"read_key": share * repeat_heads(streams["k"], len(share))}

    @classmethod
    def examples(cls) -> tuple[ScaledReadKey, ...]:
        return (cls(),)


@dataclass(frozen=True)
class UnitReadKey(Gate):
    """read_key = k * g / ||k * g|| per head, with a learned gain g, where k is the output of the projection
    (RWKV-7, arXiv 2503.14456)."""

    makes: ClassVar[tuple[str, ...]] = ("read_key",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"gain": Parameter((sizes.heads, sizes.key_size), constant(0.71))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        key = wide(repeat_heads(streams["k"], len(params["gain"])) * params["gain"])
        return {"read_key": normalize(key, dim=-1)}

    @classmethod
    def examples(cls) -> tuple[UnitReadKey, ...]:
        return (cls(),)


@dataclass(frozen=True)
class RWKV7EraseKey(Gate):
    """erase_key = a * read_key, a = sigmoid(W2 W1 x_erase + bias) per head and channel (RWKV-7, arXiv
    2503.14456).

    a, the in-context learning rate of a channel, is available to other parts as the stream ``learning_rate``.
    W1 maps to ``rank`` channels, by default the key size.
    """

    rank: int | None = None

    reads: ClassVar[tuple[str, ...]] = ("read_key", "x_erase")
    makes: ClassVar[tuple[str, ...]] = ("erase_key", "learning_rate")
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank, channels = self.rank or sizes.key_size, (sizes.heads, sizes.key_size)
        return {
            "down": Matrix((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Matrix((*channels, rank), fan_in(rank)),
            "bias": Parameter(channels, constant(-0.19)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        logits = linear(linear(streams["x_erase"], params["down"]), params["up"])
        rate = torch.sigmoid(wide(logits) + wide(params["bias"]))
        return {"erase_key": rate * streams["read_key"], "learning_rate": rate}

    @classmethod
    def examples(cls) -> tuple[RWKV7EraseKey, ...]:
        return (cls(), cls(rank=2))


@dataclass(frozen=True)
class TransportKey(Gate):
    """transport_key = W2 W1 x per head, of norm 1 unless ``unit`` is False because another part normalises it
    (PaTH, arXiv 2505.16381)."""

    rank: int = 32
    unit: bool = True

    makes: ClassVar[tuple[str, ...]] = ("transport_key",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "down": Matrix((self.rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Matrix((sizes.heads, sizes.key_size, self.rank), fan_in(self.rank)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        key = wide(linear(linear(streams["x"], params["down"]), params["up"]))
        return {
            "transport_key": key * torch.rsqrt(key.square().sum(-1, keepdim=True) + 1e-6)
            if self.unit
            else key
        }

    @classmethod
    def examples(cls) -> tuple[TransportKey, ...]:
        return (cls(), cls(rank=2, unit=False))


@dataclass(frozen=True)
class ProjectedSlope(Gate):
    """slope = W x, a second query per head (Parallax, arXiv 2605.29157). ``Rotary`` rotates it together with
    the queries."""

    makes: ClassVar[tuple[str, ...]] = ("slope",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Matrix((sizes.heads, sizes.key_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"slope": linear(streams["x"], params["weight"])}

    @classmethod
    def examples(cls) -> tuple[ProjectedSlope, ...]:
        return (cls(),)
