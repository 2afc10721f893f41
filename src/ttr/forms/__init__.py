"""What a problem becomes for a call, one file per form: its equations, tensors, state, and what lowers to it.

A component names the form that it needs (``form``), ``Problem.form`` is that of all three, and
``Problem.lower`` makes an instance of it. Engines and the update of one token are chosen by the form; its
``finish`` gives read-outs and state.

    linear_recurrence    a matrix to which pairs are added, or which steps of the delta rule correct
    momentum, oja        the delta rule with momentum; the Oja rule
    fenwick              one matrix per level of a Fenwick tree
    second_moments       H and U of a ridge regression, solved at every token
    weighted_pairs       the pairs themselves: softmax, local polynomials; windows; transported keys,
                         corrected values; kernel ridge regression
    network              networks that take gradient steps, at every token or once per chunk
    landmarks            the whole sequence through landmarks, not causal

Arithmetic that several forms share: ``sums``, ``rotation``, ``preconditioner``.
"""

from ttr.forms.fenwick import FenwickRecurrence
from ttr.forms.landmarks import Landmarks
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.forms.momentum import MomentumRecurrence
from ttr.forms.network import ChunkedNetwork, Network
from ttr.forms.oja import OjaRecurrence
from ttr.forms.second_moments import SecondMoments
from ttr.forms.weighted_pairs import CorrectedPairs, KernelPairs, Pairs, TransportedPairs, WeightedPairs

Form = (
    LinearRecurrence
    | MomentumRecurrence
    | OjaRecurrence
    | FenwickRecurrence
    | SecondMoments
    | WeightedPairs
    | KernelPairs
    | Network
    | Landmarks
)

__all__ = [
    "ChunkedNetwork",
    "CorrectedPairs",
    "FenwickRecurrence",
    "Form",
    "KernelPairs",
    "Landmarks",
    "LinearRecurrence",
    "MomentumRecurrence",
    "Network",
    "OjaRecurrence",
    "Pairs",
    "SecondMoments",
    "TransportedPairs",
    "WeightedPairs",
]
