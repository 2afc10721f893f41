"""Networks whose weights take gradient steps on the pairs, in the forward pass.

Used by: the solvers GradientDescent (a step at every token, ``Network``) and ChunkDescent (one per
chunk, ``ChunkedNetwork``), over functions with ``forward`` and ``slopes`` (Linear, Mlp, GatedMlp).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ttr.inputs import Inputs
from ttr.state_tensors import StateTensors


class Network(NamedTuple):
    """W_t = D_t W_{t-1} - step_t grad l(m_W(k_t), v_t) at the weights of the last chunk boundary, and y_t =
    m_{W_t}(q_t); momentum, read step and maps are the solver's.

    Letters: F features of a key, P groups of matrices with a step of their own. ``names`` are the tensors of
    W in the state, [B,H,...]; that of a bias ends in "_bias". ``step`` includes the importance, and
    ``params`` are those that ``forward`` and ``slopes`` of the function take. Besides W the state has the
    change since the boundary, and the momentum.
    """

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B T H F"]
    value: Float[Tensor, "B T H V"]
    step: Float[Tensor, "B T H *groups"]
    names: tuple[str, ...]
    params: Mapping[str, Tensor]

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of the matrices; "NAME_bias" belongs to "NAME"."""
        return tuple(name for name in self.names if not name.endswith("_bias"))

    def split(self, cut: Callable[[Tensor], Tensor]) -> list[Network]:
        """One network per chunk, with the tokens cut by ``cut``: [B,T,...] -> [M,B,C,...]."""
        parts = zip(*(cut(tensor) for tensor in (self.query, self.key, self.value, self.step)))
        return [
            self._replace(query=query, key=key, value=value, step=step) for query, key, value, step in parts
        ]

    def weights(self, state: StateTensors) -> dict[str, Tensor]:
        """W of a state."""
        return {name: state[name] for name in self.names}


class ChunkedNetwork(Network):
    """W <- W - sum_{j in chunk} step_j grad l(m_W(k_j), v_j) at the end of every chunk, after all its tokens
    have read y_t = m_W(q_t). Besides W the state has the sum of gradients of the open chunk, and the
    momentum."""


class Perceptron(NamedTuple):
    """A network of matrices with GELU (tanh form) between them; with ``residual`` its read-out is x +
    LN(f(x)) gain + shift, with ``eps`` in the norm."""

    residual: bool
    eps: float


class Mirror(NamedTuple):
    """A map of matrices: with a ``power`` q the power norm A (sum |A|^q + eps)^((2 - q) / q), otherwise
    ``total`` times softmax(A) over the inputs of every output."""

    power: float | None = None
    eps: float = 0.0
    total: float = 1.0


def step_of(x: Inputs) -> Tensor:
    """Steps [B,T,H] or [B,T,H,P] of every pair, importance included."""
    step = x.controls["step_size"]
    if x.log_importance is None:
        return step
    importance = x.log_importance.exp()
    return step * (importance if step.ndim == 3 else importance[..., None])
