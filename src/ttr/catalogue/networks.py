"""Memories that are networks, trained on mini-batches of tokens in the forward pass: TTT, Titans, LaCT, ATLAS
and the MIRAS models."""

from __future__ import annotations

from dataclasses import replace

from ttr.functions.features.taylor import Taylor
from ttr.functions.gated_mlp import GatedMlp
from ttr.functions.mlp import Mlp
from ttr.layer.architecture import Architecture
from ttr.layer.gates.projected import LogSigmoidGate, SigmoidGate, SoftplusGate
from ttr.layer.gates.step_sizes import ChunkAverage, TTTStepSize
from ttr.layer.initialisers import inverse_softplus
from ttr.layer.output.norms import GatedRMSNorm, LayerNorm, RMSNorm
from ttr.layer.qkv.norms import UnitNorm
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem
from ttr.solvers.chunk_descent import ChunkDescent
from ttr.solvers.gradient_descent import GradientDescent
from ttr.solvers.losses.huber import Huber
from ttr.solvers.losses.power_error import PowerError
from ttr.solvers.maps.newton_schulz import NewtonSchulz
from ttr.solvers.maps.power_norm import PowerNorm
from ttr.solvers.maps.simplex import Simplex
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

LACT = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""The coefficients of LaCT's Newton-Schulz iterations, which bring singular values to 0.98..1.01."""

ENTRIES: dict[str, Architecture] = {
    "ttt-linear": Architecture(
        Problem(Uniform(), Mlp(depth=1, bias=True, start=0.02), GradientDescent(chunk=16, read_step=True)),
        qkv=(Rotary(period=16),),
        gates=(TTTStepSize(), ChunkAverage()),
        output=(LayerNorm("all", eps=1e-6),),
        source="Sun et al.: Learning to (Learn at Test Time): RNNs with Expressive Hidden States",
        arxiv="2407.04620",
        year=2024,
        original=None,
        verified=(
            "memory: fla/ops/ttt/naive.py, where its read step and residual agree; the "
            "dual form of the publication"
        ),
        note="The Transformer backbone of the release, without its optional gate and convolution.",
    ),
    "ttt-mlp": Architecture(
        Problem(Uniform(), Mlp(bias=True, start=0.02), GradientDescent(chunk=16, read_step=True)),
        qkv=(Rotary(period=16),),
        gates=(TTTStepSize(base=0.1), ChunkAverage()),
        output=(LayerNorm("all", eps=1e-6),),
        source="Sun et al.: Learning to (Learn at Test Time): RNNs with Expressive Hidden States",
        arxiv="2407.04620",
        year=2024,
        original=None,
        verified="memory: the dual form of the publication, gradients by hand",
        note=(
            "As ttt-linear with a hidden layer. The derivative of GELU is exact, that of the release has "
            "rounded constants."
        ),
    ),
    "titans": Architecture(
        Problem(Geometric(), Mlp(residual=False), GradientDescent(chunk=16, momentum=True)),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(
            LogSigmoidGate("log_decay", bias=3.0),
            SigmoidGate("step_size", bias=-3.0),  # 16 steps of a chunk then add up to less than one
            SigmoidGate("momentum", bias=0.0),
        ),
        output=(GatedRMSNorm("silu"),),
        source="Behrouz, Zhong, Mirrokni: Titans",
        arxiv="2501.00663",
        year=2025,
        original=None,
        verified=(
            "memory: the weights of every token unrolled, gradients by hand; "
            "fla/ops/titans/naive.py for a matrix"
        ),
        note=(
            "Only the memory layer (LMM), with gates per head. Community code averages gates over a chunk "
            "and the loss over channels. Step sizes begin at 0.05; at 0.5 the memory diverges."
        ),
    ),
    "lact": Architecture(
        Problem(Uniform(), GatedMlp(), ChunkDescent(momentum=True, orthogonalise=NewtonSchulz(LACT))),
        qkv=(Silu(), UnitNorm(), Rotary(base=500000.0)),
        gates=(
            SoftplusGate("step_size", per="group", bias=inverse_softplus(0.001)),
            SigmoidGate("momentum", bias=0.0),
        ),
        output=(RMSNorm(),),
        source="Zhang et al.: Test-Time Training Done Right",
        arxiv="2505.23884",
        year=2025,
        original=None,
        verified="memory: the published loop over chunks, gradients by hand",
        note=(
            "Without the parallel window attention and the scale of its keys. The release orthogonalises "
            "in bfloat16."
        ),
    ),
    "atlas": Architecture(
        Problem(
            Geometric(),
            Mlp(hidden=1, features=Taylor()),
            GradientDescent(chunk=16, momentum=True, window=4, orthogonalise=NewtonSchulz()),
        ),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(
            LogSigmoidGate("log_decay", bias=3.0),
            SigmoidGate("step_size"),
            SigmoidGate("momentum", bias=0.0),
        ),
        output=(GatedRMSNorm("silu"),),
        source="Behrouz et al.: ATLAS: Learning to Optimally Memorize the Context at Test Time",
        arxiv="2505.23735",
        year=2025,
        original=None,
        verified="derived from its equations: every token's weights and windowed gradient written out",
        note="No author code is public. Each pair of a window keeps the step of its token; the residual adds "
        "the first V features (1, then the scaled key). For heads of up to 16 channels: K = V = 64 is 57 MB "
        "a head, 0.3 TFLOP a token and with gradients 0.4 GB for each of sqrt(T) tokens.",
    ),
    "moneta": Architecture(
        Problem(Geometric(), Mlp(), GradientDescent(chunk=16, loss=PowerError(3.0), mirror=PowerNorm(4.0))),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(LogSigmoidGate("log_decay", bias=3.0), SigmoidGate("step_size")),
        output=(GatedRMSNorm("silu"),),
        source="Behrouz, Razaviyayn, Zhong, Mirrokni: It's All Connected",
        arxiv="2504.13173",
        year=2025,
        original=None,
        verified="derived from the publication's equations: the recurrence with gradients by hand",
        note=(
            "No author code is public. Gates per head, not per channel; the norm acts at every token, not "
            "only at the ends of chunks; l_p over p."
        ),
    ),
    "yaad": Architecture(
        Problem(Geometric(), Mlp(), GradientDescent(chunk=16, loss=Huber())),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(
            LogSigmoidGate("log_decay", bias=3.0),
            SigmoidGate("step_size"),
            SoftplusGate("threshold", bias=0.5),
        ),
        output=(GatedRMSNorm("silu"),),
        source="Behrouz, Razaviyayn, Zhong, Mirrokni: It's All Connected",
        arxiv="2504.13173",
        year=2025,
        original=None,
        verified="derived from the publication's equations: the recurrence with gradients by hand",
        note=(
            "No author code is public. Gates per head; Huber of the error's length, where eq. 26 prints "
            "the slope of l_1."
        ),
    ),
    "memora": Architecture(
        Problem(Geometric(), Mlp(start=1.0), GradientDescent(chunk=16, mirror=Simplex())),
        qkv=(ShortConvolution(), UnitNorm()),
        gates=(LogSigmoidGate("log_decay", bias=3.0), SigmoidGate("step_size")),
        output=(GatedRMSNorm("silu"),),
        source="Behrouz, Razaviyayn, Zhong, Mirrokni: It's All Connected",
        arxiv="2504.13173",
        year=2025,
        original=None,
        verified="derived from the publication's equations: the recurrence with gradients by hand",
        note=(
            "No author code is public. Softmax over the inputs of every output and c = 1 are a reading of "
            "'per slice'; gates per head."
        ),
    ),
}

BEFORE_VERSIONS: dict[str, Architecture] = {
    "titans": replace(
        ENTRIES["titans"],
        gates=(
            LogSigmoidGate("log_decay", bias=3.0),
            SigmoidGate("step_size"),
            SigmoidGate("momentum", bias=0.0),
        ),
    ),
}
"""Entries that have changed, as they were when saved models did not yet tell the version of ttr."""
