"""The delta rule with momentum: a matrix, and the running gradient that updates it.

Used by: MomentumDeltaRule.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.state_tensors import StateTensors


class MomentumRecurrence(NamedTuple):
    """G_t = k_t (S_x^T r_t - v_t)^T, Z_t = share_t Z_{t-1} + b_t G_t, S_t = D_t S_{t-1} - rate_t Z_t and y_t
    = scale S_t^T q_t.

    ``recurrence`` has keys k, values v, read keys r, steps b, decays D and S_0; S_x is D_t S_{t-1}, or
    S_{t-1} where it is ``old``. ``momentum`` is Z_0. The state is S and Z.
    """

    recurrence: LinearRecurrence
    share: Float[Tensor, "B T H"]
    rate: Float[Tensor, "B T H"]
    momentum: Float[Tensor, "B H F V"]

    @staticmethod
    def of(form: LinearRecurrence, x: Inputs) -> MomentumRecurrence:
        """From the recurrence of S."""
        return MomentumRecurrence(
            form, x.controls["momentum"], x.controls["momentum_step"], x.state["momentum"]
        )

    def finish(self, x: Inputs, y: Tensor, memory: Tensor, momentum: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, from S and Z after it."""
        return self.recurrence.finish(x, y, memory, momentum=momentum)
