from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.component import Parameter, constant
from ttr.functions._network import _Network
from ttr.functions.features.identity import Identity
from ttr.problem import FeatureMap, Problem, Worked


@dataclass(frozen=True)
class Mlp(_Network):
    """f(x) = W_d^T gelu(... gelu(W_1^T phi(x))): a network of ``depth`` matrices, the hidden layers
    ``hidden`` times as wide as phi(x).

    With ``residual`` it corrects its input: m(x) = phi(x) + LN(f(x)), LN with a learned gain and shift per
    channel. That is TTT's (arXiv 2407.04620) target v - k for LN(f(k)) and read-out q + LN(f(q)); where value
    and key sizes differ, phi(x) is cut, or filled up with zeros. ``start`` is the standard deviation of the
    first weights, None for 1 / sqrt(inputs). The GELU is its tanh form.

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

    perceptron: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.depth < 1 or self.hidden < 1:
            raise ValueError(
                f"A network of depth {self.depth} and width {self.hidden} has no weights. Use "
                "1 or more for both."
            )

    @property
    def groups(self) -> int:
        return self.depth

    @property
    def inner(self) -> tuple[str, ...]:
        return ("gain", "shift") if self.residual else ()

    @property
    def least_value_size(self) -> int:
        return 4 if self.residual else 1  # a norm over two channels is their sign

    @property
    def stable_step(self) -> float:
        return 1.0 if self.residual else 0.2  # without the norm, a product of learned matrices

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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.solvers.gradient_descent import GradientDescent
        from ttr.weights.geometric import Geometric
        from ttr.weights.uniform import Uniform

        q, k, v, corrected, deep = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2]],
                # One matrix with bias, x + LN, eps 0.25; steps 0.5, 0.2, 0.6, 0.3, read steps 0.8, 0.6, 0.7,
                # 0.5, boundary after two tokens.
                # k_1: z = (2.05, 2.675, 0.4), mean 1.708333, deviation sqrt(0.919306 + 0.25) = 1.081345,
                # prediction (0.5, 2, -) + LN z, so the slope through LN is g = (-4.481355614923,
                # 4.766946837019, -0.285591222096). k_2: z = (0.675, -1.325, 3.65) and g = (2.887296524782,
                # -1.944663095749, -0.942633429033). W_1 = W - 0.8 * 0.5 k_1 g_1^T, b_1 = b - 0.8 * 0.5 g_1;
                # W_2 = W - 0.6 (0.5 k_1 g_1^T + 0.2 k_2 g_2^T), kept; tokens 3 and 4 likewise from W_2.
                [
                    [2.8533920126, 0.0201923523452, 3.04967969794],
                    [-2.08162187851, 0.93224161667, 1.42068442304],
                    [0.101770787504, -2.13549426723, 4.67130833791],
                    [3.63499755128, -2.80807886644, 3.951066496],
                ],
                # Two matrices, GELU between; steps 1/16, 1/40, 3/40, 3/80, decays 0.5, 0.8, 0.25, 0.6,
                # momenta 0.4, 0.3, 0.7, 0.2.
                # k_1: z = (0.75, 2.625), gelu (0.579960555166, 2.614096088304), error (-3.743300537544,
                # 4.597883039746, -2.519818507310), and back through W_2 and the slope of GELU
                # (-7.101367899533,
                # 5.616513688817). k_2: z = (0.625, -1.875), gelu (0.458721149958, -0.057000964364), error
                # (2.320833461465, -4.223389135038, -2.466634909360), back (0.114447105767, 0.551903169324).
                # W_1 of the network: Z = -k_1 back_1^T / 16, 0.5 W + Z; then Z = 0.3 Z - k_2 back_2^T / 40,
                #     0.8 W + Z, the new boundary.
                [
                    [1.70049667755, -1.39491817302, 2.66168253367],
                    [0.624345405377, -0.789837422408, 1.01764605928],
                    [-0.0233962966801, -0.0670781426787, 0.101635625273],
                    [0.0272481436845, 0.0337946989952, -0.053512912242],
                ],
            )
        )
        gates = {
            "step_size": [0.5, 0.2, 0.6, 0.3],
            "read_step": [0.8, 0.6, 0.7, 0.5],
            "momentum": [0.4, 0.3, 0.7, 0.2],
            "log_decay": [0.5, 0.8, 0.25, 0.6],
        }
        gates = {name: torch.tensor(x, dtype=torch.float64)[None, :, None] for name, x in gates.items()}
        titans = {
            "step_size": gates["step_size"] / 8,
            "momentum": gates["momentum"],
            "log_decay": gates["log_decay"].log(),
        }
        one = {
            "w1": [[0.5, -0.25, 2], [0.75, 1.5, -0.5]],
            "w1_bias": [0.3, -0.2, 0.4],
            "gain": [0.5, 2, 1.5],
            "shift": [0.25, -0.5, 3],
        }
        two = {"w1": [[0.5, -0.75], [0.25, 1.5]], "w2": [[0.6, -0.4, 1.2], [-0.8, 0.7, 0.3]]}
        one, two = (
            {f"function.{name}": torch.tensor([x], dtype=torch.float64) for name, x in params.items()}
            for params in (one, two)
        )
        ttt = Problem(
            Uniform(), cls(depth=1, bias=True, start=0.5, eps=0.25), GradientDescent(chunk=2, read_step=True)
        )
        lmm = Problem(
            Geometric(), cls(hidden=1, residual=False, start=0.5), GradientDescent(chunk=2, momentum=True)
        )
        return (
            Worked(ttt, q, k, v, corrected, {name: gates[name] for name in ("step_size", "read_step")}, one),
            Worked(lmm, q, k, v, deep, titans, two),
        )


RATE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * RATE
# named, because torch.compile rounds what it multiplies itself another way, and then refuses its own guard
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
