"""Ridge regression at every token, from two sums over the pairs.

Used by: solvers that solve or iterate on H_t x = q_t (ExactRidge, ConjugateGradient, Chebyshev),
over any linear function, with at most one decay per head.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.state_tensors import StateTensors


class SecondMoments(NamedTuple):
    """H_t = D_t H_{t-1} + w_t k_t k_t^T and U_t = D_t U_{t-1} + w_t k_t v_t^T; y_t = U_t^T x_t with x_t the
    solution of (H_t + diag(ridge)) x_t = q_t, or the result of the solver's iteration.

    D_t = exp(log_decay_t), -inf a reset, and w_t = exp(log_importance_t). With ``mix`` it is read at q_t +
    mix_t (x_t - q_t) instead. ``gram`` and ``memory`` are H and U before the call, and the state after it.
    """

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B T H F"]
    value: Float[Tensor, "B T H V"]
    log_decay: Float[Tensor, "B T H"] | None
    log_importance: Float[Tensor, "B T H"] | None
    ridge: Float[Tensor, "H F"] | None
    gram: Float[Tensor, "B H F F"]
    memory: Float[Tensor, "B H F V"]
    mix: Float[Tensor, "B T H"] | None = None

    @staticmethod
    def of(form: LinearRecurrence, x: Inputs) -> SecondMoments:
        """From the recurrence of U."""
        return SecondMoments(
            form.scaled_query,
            form.key,
            form.value,
            x.log_decay,
            x.log_importance,
            x.controls.get("ridge"),
            x.state["gram"],
            form.memory,
            x.controls.get("mix"),
        )

    def finish(self, x: Inputs, y: Tensor, gram: Tensor, memory: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, from the moments after it."""
        return y, x.state.replace(gram=gram, memory=memory, position=x.state.position + x.length)
