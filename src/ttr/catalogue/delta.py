"""Delta-rule memories: the delta rule and its gated, implicit and several-pair forms."""

from __future__ import annotations

from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import KDADecay, MambaDecay, RWKV7Decay
from ttr.layer.gates.keys import GatedKey, RWKV7EraseKey, ScaledReadKey, UnitReadKey
from ttr.layer.gates.momentum import CappedDecay, DecayMomentum, SharedMomentumStep
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.gates.step_sizes import TanhStepSize
from ttr.layer.output.gates import LowRankOutputGate, OutputGate
from ttr.layer.output.norms import GatedRMSNorm, LayerNorm, RMSNorm
from ttr.layer.output.skips import CurrentTokenBonus, Skip
from ttr.layer.qkv.norms import UnitNorm
from ttr.layer.qkv.pointwise import QueryCorrection, RateScaledKey
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.qkv.token_shift import TokenShift
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.solvers.momentum_delta_rule import MomentumDeltaRule
from ttr.solvers.oja_rule import OjaRule
from ttr.solvers.preconditioned_delta_rule import PreconditionedDeltaRule
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "deltanet": Architecture(
        Problem(Uniform(), Linear(), DeltaRule()),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(SigmoidGate("step_size"),),
        output=(RMSNorm(),),
        source="Yang, Wang, Zhang, Shen, Kim: Parallelizing Linear Transformers with the Delta Rule",
        arxiv="2406.06484",
        year=2024,
        original="fla.layers.DeltaNet",
        verified="memory: fla/ops/delta_rule/naive.py",
        note="First as fast weights by Schlag, Irie, Schmidhuber, arXiv 2102.11174.",
    ),
    "gated-deltanet": Architecture(
        Problem(Geometric("head"), Linear(), DeltaRule()),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(MambaDecay(), SigmoidGate("step_size")),
        output=(GatedRMSNorm("silu"),),
        source="Yang, Kautz, Hatamizadeh: Gated Delta Networks",
        arxiv="2412.06464",
        year=2024,
        original="transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextGatedDeltaNet",
        verified="layer: transformers models/qwen3_next; memory: also fla/ops/gated_delta_rule/naive.py",
        note="Published with value_size = 2 key_size.",
    ),
    "kda": Architecture(
        Problem(Geometric("channel"), Linear(), DeltaRule()),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(KDADecay(), SigmoidGate("step_size")),
        output=(GatedRMSNorm("sigmoid", low_rank=True),),
        source="Kimi Team: Kimi Linear",
        arxiv="2510.26692",
        year=2025,
        original="fla.layers.KimiDeltaAttention",
        verified="memory: fla/ops/kda/naive.py and transformers models/kimi_linear",
    ),
    "gated-deltaproduct": Architecture(
        Problem(Geometric("head"), Linear(), DeltaRule(pairs_per_token=2)),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(MambaDecay(), SigmoidGate("step_size", scale=2.0)),
        output=(GatedRMSNorm("silu"),),
        source="Siems et al.: DeltaProduct",
        arxiv="2502.10297",
        year=2025,
        original="fla.layers.GatedDeltaProduct",
        verified="memory: fla/ops/gated_delta_product/naive.py",
    ),
    "longhorn-exact": Architecture(
        Problem(Uniform(), Linear(scale=1.0), ImplicitDeltaRule()),
        qkv=(ShortConvolution(bias=True),),
        gates=(SigmoidGate("step_size"),),
        output=(Skip(), OutputGate("silu")),
        source="Liu, Wang, Wu, Feng, Stone, Liu: Longhorn",
        arxiv="2407.14207",
        year=2024,
        original=None,
        verified="memory: the linear system of its objective",
        note=(
            "The exact minimiser of Longhorn's objective with one step per head; the release keeps the "
            "diagonal of k k^T and one step per channel."
        ),
    ),
    "comba": Architecture(
        Problem(Geometric("head"), Linear(), DeltaRule("old", separate_read=True)),
        qkv=(ShortConvolution(), QueryCorrection(), UnitNorm()),
        gates=(MambaDecay(), SigmoidGate("step_size"), ScaledReadKey()),
        output=(GatedRMSNorm("sigmoid"),),
        source="Hu et al.: Comba",
        arxiv="2506.02475",
        year=2025,
        original="fla.layers.Comba",
        verified="memory: the chunk form of fla/ops/comba/naive.py",
        note="The read key keeps its learned norm; the kernel of fla's layer normalises it.",
    ),
    "deltaproduct": Architecture(
        Problem(Uniform(), Linear(), DeltaRule(pairs_per_token=2)),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(SigmoidGate("step_size", scale=2.0),),
        output=(RMSNorm(),),
        source="Siems et al.: DeltaProduct",
        arxiv="2502.10297",
        year=2025,
        original="fla.layers.GatedDeltaProduct",
        verified="memory: fla/ops/gated_delta_product/naive.py without gates",
        note="The original with use_forget_gate=False and use_output_gate=False.",
    ),
    "gated-deltanet2": Architecture(
        Problem(
            Geometric("channel"), Linear(), DeltaRule(separate_read=True, gated_write=True, unit_step=True)
        ),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(KDADecay(), GatedKey(), SigmoidGate("write")),
        output=(GatedRMSNorm("sigmoid", low_rank=True),),
        source="Gated DeltaNet-2",
        arxiv="2605.22791",
        year=2026,
        original="fla.layers.GatedDeltaNet2",
        verified="memory: fla/ops/gdn2/naive.py, recurrent and chunk",
        note=(
            "With grouped values every head has its own erase gates; the original shares those of a key head."
        ),
    ),
    "rwkv7": Architecture(
        Problem(
            Geometric("channel"),
            Linear(scale=1.0),
            DeltaRule("old", separate_read=True, separate_erase=True, unit_step=True),
        ),
        qkv=(TokenShift(("q", "k", "v", "decay", "erase", "gate")), RateScaledKey()),
        gates=(RWKV7Decay(), UnitReadKey(), RWKV7EraseKey()),
        output=(LayerNorm(eps=64e-5, by_depth=True), CurrentTokenBonus(), LowRankOutputGate()),
        source="Peng et al.: RWKV-7 Goose",
        arxiv="2503.14456",
        year=2025,
        original="fla.layers.RWKV7Attention",
        verified=(
            "memory: fla/ops/generalized_delta_rule/dplr/naive.py, recurrent and chunk; layer: the "
            "published equations"
        ),
        note=(
            "Without the value residual, which mixes in the values of the first layer and so is not part "
            "of a layer. The low ranks are the sizes of a head."
        ),
    ),
    "precond-gated-deltanet": Architecture(
        Problem(Geometric("head"), Linear(), PreconditionedDeltaRule()),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(
            MambaDecay(),
            SigmoidGate("step_size"),
            MambaDecay("precond_log_decay"),
            SigmoidGate("precond_step"),
        ),
        output=(GatedRMSNorm("silu"),),
        source="Preconditioned DeltaNet: Curvature-aware Sequence Modeling for Linear Recurrences",
        arxiv="2604.21100",
        year=2026,
        original="fla.layers.PrecondGatedDeltaNet",
        verified="memory: fla/ops/precond_gated_delta_rule/naive.py",
        note="Published with value_size = 2 key_size.",
    ),
    "precond-kda": Architecture(
        Problem(Geometric("channel"), Linear(), PreconditionedDeltaRule()),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(
            KDADecay(),
            SigmoidGate("step_size"),
            MambaDecay("precond_log_decay", slowest=1.0),
            SigmoidGate("precond_step"),
        ),
        output=(GatedRMSNorm("sigmoid", low_rank=True),),
        source="Preconditioned DeltaNet: Curvature-aware Sequence Modeling for Linear Recurrences",
        arxiv="2604.21100",
        year=2026,
        original="fla.layers.PrecondKDA",
        verified="memory: fla/ops/precond_kda/naive.py",
        note="The decay's biases start as those of KDA; the original's start at 0.",
    ),
    "gated-oja": Architecture(
        Problem(Uniform(), Linear(), OjaRule()),
        qkv=(ShortConvolution(), UnitNorm(("q", "k", "v"))),
        gates=(SigmoidGate("step_size"), KDADecay("value_log_decay")),
        output=(GatedRMSNorm("sigmoid", low_rank=True),),
        source=(
            "flash-linear-attention 0.6.0, after Oja: A simplified neuron model as a principal component "
            "analyzer, 1982"
        ),
        year=2026,
        original="fla.ops.gated_oja_rule",
        verified=(
            "memory: descent of 1/2 ||k - N v||^2 by autograd, and as the delta rule of exchanged keys "
            "and values"
        ),
        note=(
            "Regresses keys on values and reads with the adjoint, so it is outside the framework. "
            "Published as an operator only; the layer around it is that of KDA."
        ),
    ),
    "momentum-deltanet": Architecture(
        Problem(Geometric("head"), Linear(), MomentumDeltaRule("decayed")),
        qkv=(ShortConvolution(), QueryCorrection(), UnitNorm()),
        gates=(TanhStepSize(), SharedMomentumStep(), CappedDecay(), DecayMomentum()),
        output=(GatedRMSNorm("silu"),),
        source="Momentum DeltaNet",
        arxiv="2605.05838",
        year=2026,
        original="fla.layers.MomentumDeltaNet",
        verified="memory: fla/ops/momentum_delta_rule/naive.py, recurrent",
        note=(
            "The layer measures its error at the decayed memory (use_p_times_alpha); published with "
            "value_size = 2 key_size."
        ),
    ),
}
