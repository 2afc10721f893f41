from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.component import Parameter, constant
from ttr.forms.network import Perceptron
from ttr.functions._network import _Network
from ttr.functions.features.identity import Identity
from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Mlp(_Network):
    """f(x) = W_d^T gelu(... gelu(W_1^T phi(x))): a network of ``depth`` matrices, the hidden layers
    ``hidden`` times as wide as phi(x).

    With ``residual`` it corrects its input: m(x) = phi(x) + LN(f(x)), LN with a learned gain and shift per
    channel. That is TTT (arXiv 2407.04620), where LN(f(k)) is fitted to v - k and the read-out is q +
    LN(f(q)); where value and key sizes differ, phi(x) is truncated or padded with zeros. ``start`` is the
    standard deviation of the initial weights, None for 1 / sqrt(inputs). The GELU is its tanh form.

    Raises:
        ValueError: if depth or width is below 1.
    """

    depth: int = 2
    hidden: int = 4
    bias: bool = False
    residual: bool = True
    start: float | None = None
    eps: float = 1e-6
    features: FeatureMap = field(default_factory=Identity)

    def __post_init__(self) -> None:
        if self.depth < 1 or self.hidden < 1:
            raise ValueError(
                f"A network of depth {self.depth} and width {self.hidden} has no weights. Use "
                "1 or more for both."
            )

    def sizes(self) -> dict[str, int]:
        return {"P": self.depth}

    def inner(self) -> tuple[str, ...]:
        return ("gain", "shift") if self.residual else ()

    def perceptron(self) -> Perceptron:
        return Perceptron(self.residual, self.eps)

    def limits(self) -> dict[str, float]:
        """LN of two channels is only their sign; without LN the output is a product of learned matrices."""
        return {"value_size": 4.0} if self.residual else {"step_size": 0.2}

    def formulas(self) -> dict[str, str]:
        body = ""
        for layer in range(1, self.depth + 1):
            body = f"W_{layer}^T {f'gelu({body})' if body else 'phi(x)'}" + (
                f" + c_{layer}" if self.bias else ""
            )
        norm = (
            f"LN with learned gain and shift, eps = {self.eps:g}, [.]_V the first V entries, 0 where "
            "there are fewer"
        )
        prediction = f"m(x) = [phi(x)]_V + LN({body}), {norm}" if self.residual else f"m(x) = {body}"
        hidden = f", hidden layers {self._width()}" if self.depth > 1 else ""
        return {"prediction": prediction + hidden, **self.features.formulas(), **super().formulas()}

    def matrices(self) -> tuple[str, ...]:
        return tuple(f"w{layer}" for layer in range(1, self.depth + 1))

    def memory(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        widths = [feature_size, *[self.hidden * feature_size] * (self.depth - 1), value_size]
        weights = {name: shape for name, shape in zip(self.matrices(), zip(widths, widths[1:]))}
        return weights | ({f"{name}_bias": shape[1:] for name, shape in weights.items()} if self.bias else {})

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        norm = {
            "gain": Parameter((heads, value_size), constant(1.0)),
            "shift": Parameter((heads, value_size), constant(0.0)),
        }
        own = super().parameters(heads, key_size, value_size) | (norm if self.residual else {})
        return own | self.features.parameters(heads, key_size, value_size)

    def forward(
        self, affine: Callable[[str, Tensor], Tensor], key: Tensor, params: Mapping[str, Tensor]
    ) -> Tensor:
        first, *others = self.matrices()
        x = affine(first, key)
        for name in others:
            x = affine(name, _gelu(x))
        if not self.residual:
            return x
        centred = x - x.mean(-1, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        return pad(key, (0, x.shape[-1] - key.shape[-1])) + normed * params["gain"] + params["shift"]

    def slopes(
        self,
        back: Callable[[str, Tensor], Tensor],
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        slope: Tensor,
        params: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        *others, last = self.matrices()
        if self.residual:
            slope = self._through_norm(outputs[last], slope * params["gain"])
        found = {last: slope}
        for name, following in reversed(list(zip(others, self.matrices()[1:]))):
            slope = back(following, slope) * _gelu_slope(outputs[name])
            found[name] = slope
        return found

    def _through_norm(self, x: Tensor, slope: Tensor) -> Tensor:
        """With x^ = (x - mean) / s, s^2 = var + eps: dx = (g - mean(g) - x^ mean(g x^)) / s."""
        centred = x - x.mean(-1, keepdim=True)
        rate = torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        normed = centred * rate
        return rate * (
            slope - slope.mean(-1, keepdim=True) - normed * (slope * normed).mean(-1, keepdim=True)
        )

    def feature_size(self, key_size: int) -> int:
        return self.features.size(key_size)

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return self.features(q, params)

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return self.features(k, params)

    @classmethod
    def examples(cls) -> tuple[Mlp, ...]:
        return (cls(depth=1, bias=True, eps=0.2), cls(hidden=2, residual=False))


RATE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * RATE
# a constant of its own: torch.compile rounds a product that it folds differently, and its guard then fails
SLOPE = 3 * CUBIC


def _gate(x: Tensor) -> Tensor:
    """(1 + tanh u) / 2 = sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3): a sigmoid is cheaper than a
    hyperbolic tangent."""
    return torch.addcmul(RATE * x, x * x, x, value=CUBIC).sigmoid()


def _gelu(x: Tensor) -> Tensor:
    """x (1 + tanh u) / 2."""
    return x * _gate(x)


def _gelu_slope(x: Tensor) -> Tensor:
    gate = _gate(x)
    rate = torch.addcmul(RATE * x, x * x, x, value=SLOPE)  # x times the slope of 2 u
    return torch.addcmul(gate, gate - gate * gate, rate)
