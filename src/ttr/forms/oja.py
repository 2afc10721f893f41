"""The Oja rule: a matrix that learns to map values to keys, read by its transpose.

Used by: OjaRule.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.state_tensors import StateTensors


class OjaRecurrence(NamedTuple):
    """S_x = diag(D_t) S_{t-1} diag(E_t), S_t = S_x + b_t (k_t - S_x v_t) v_t^T and y_t = scale S_t^T q_t.

    ``recurrence`` has keys k, values v, steps b, decays D of key channels and S_0; E =
    exp(``value_log_decay``), -inf a reset. The state is S.
    """

    recurrence: LinearRecurrence
    value_log_decay: Float[Tensor, "B T H V"]

    @staticmethod
    def of(form: LinearRecurrence, x: Inputs) -> OjaRecurrence:
        """From the recurrence of S."""
        return OjaRecurrence(form, x.controls["value_log_decay"])

    def finish(self, x: Inputs, y: Tensor, memory: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, from S after it."""
        return self.recurrence.finish(x, y, memory)
