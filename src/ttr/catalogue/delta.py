"""Memories that correct themselves: the delta rule and its gated, implicit and several-pair forms."""

from __future__ import annotations

from ttr.architecture import Architecture
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.surroundings.controls.channel_softplus_decay import ChannelSoftplusDecay
from ttr.surroundings.controls.scaled_read_key import ScaledReadKey
from ttr.surroundings.controls.sigmoid_step_size import SigmoidStepSize
from ttr.surroundings.controls.softplus_decay import SoftplusDecay
from ttr.surroundings.keys.query_correction import QueryCorrection
from ttr.surroundings.keys.short_convolution import ShortConvolution
from ttr.surroundings.keys.unit_norm import UnitNorm
from ttr.surroundings.output.gate import Gate
from ttr.surroundings.output.gated_rms_norm import GatedRMSNorm
from ttr.surroundings.output.rms_norm import RMSNorm
from ttr.surroundings.output.skip import Skip
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "deltanet": Architecture(
        Problem(Uniform(), Linear(), DeltaRule()),
        keys=(ShortConvolution(), UnitNorm()), controls=(SigmoidStepSize(),), output=(RMSNorm(),),
        source="Yang, Wang, Zhang, Shen, Kim: Parallelizing Linear Transformers with the Delta Rule", arxiv="2406.06484", year=2024,
        original="fla.layers.DeltaNet", verified="memory: fla/ops/delta_rule/naive.py",
        note="First as fast weights by Schlag, Irie, Schmidhuber, arXiv 2102.11174."),
    "gated-deltanet": Architecture(
        Problem(Geometric("head"), Linear(), DeltaRule()),
        keys=(ShortConvolution(), UnitNorm()), controls=(SoftplusDecay(), SigmoidStepSize()), output=(GatedRMSNorm("silu"),),
        source="Yang, Kautz, Hatamizadeh: Gated Delta Networks", arxiv="2412.06464", year=2024,
        original="transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextGatedDeltaNet",
        verified="layer: transformers models/qwen3_next; memory: also fla/ops/gated_delta_rule/naive.py",
        note="Published with value_size = 2 key_size."),
    "kda": Architecture(
        Problem(Geometric("channel"), Linear(), DeltaRule()),
        keys=(ShortConvolution(), UnitNorm()), controls=(ChannelSoftplusDecay(), SigmoidStepSize()),
        output=(GatedRMSNorm("sigmoid", low_rank=True),),
        source="Kimi Team: Kimi Linear", arxiv="2510.26692", year=2025,
        original="fla.layers.KimiDeltaAttention", verified="memory: fla/ops/kda/naive.py and transformers models/kimi_linear"),
    "gated-deltaproduct": Architecture(
        Problem(Geometric("head"), Linear(), DeltaRule(pairs_per_token=2)),
        keys=(ShortConvolution(), UnitNorm()), controls=(SoftplusDecay(), SigmoidStepSize(doubled=True)), output=(GatedRMSNorm("silu"),),
        source="Siems et al.: DeltaProduct", arxiv="2502.10297", year=2025,
        original="fla.layers.GatedDeltaProduct", verified="memory: fla/ops/gated_delta_product/naive.py"),
    "longhorn-exact": Architecture(
        Problem(Uniform(), Linear(scale=1.0), ImplicitDeltaRule()),
        keys=(ShortConvolution(bias=True),), controls=(SigmoidStepSize(),), output=(Skip(), Gate("silu")),
        source="Liu, Wang, Wu, Feng, Stone, Liu: Longhorn", arxiv="2407.14207", year=2024,
        original=None, verified="memory: the linear system of its objective",
        note="The exact minimiser of Longhorn's objective with one step per head; the release keeps the diagonal of k k^T and one step per channel."),
    "comba": Architecture(
        Problem(Geometric("head"), Linear(), DeltaRule("old", separate_read=True)),
        keys=(ShortConvolution(), QueryCorrection(), UnitNorm()), controls=(SoftplusDecay(), SigmoidStepSize(), ScaledReadKey()),
        output=(GatedRMSNorm("sigmoid"),),
        source="Hu et al.: Comba", arxiv="2506.02475", year=2025,
        original="fla.layers.Comba", verified="memory: the chunk form of fla/ops/comba/naive.py",
        note="The read key keeps its learned length; the kernel of fla's layer brings it back to 1."),
}
