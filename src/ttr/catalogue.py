"""The named architectures: ``ttr.catalogue["gated-deltanet"]``. Each is an entry of data; its name decides nothing."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from ttr.architecture import Architecture
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.exact_ridge import ExactRidge
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.surroundings.controls.bounded_forget_gate import BoundedForgetGate
from ttr.surroundings.controls.channel_softplus_decay import ChannelSoftplusDecay
from ttr.surroundings.controls.constant_ridge import ConstantRidge
from ttr.surroundings.controls.learned_ridge import LearnedRidge
from ttr.surroundings.controls.log_sigmoid_decay import LogSigmoidDecay
from ttr.surroundings.controls.log_sigmoid_importance import LogSigmoidImportance
from ttr.surroundings.controls.low_rank_decay import LowRankDecay
from ttr.surroundings.controls.scaled_read_key import ScaledReadKey
from ttr.surroundings.controls.sigmoid_step_size import SigmoidStepSize
from ttr.surroundings.controls.softplus_decay import SoftplusDecay
from ttr.surroundings.keys.complement_key import ComplementKey
from ttr.surroundings.keys.head_rms_norm import HeadRMSNorm
from ttr.surroundings.keys.query_correction import QueryCorrection
from ttr.surroundings.keys.rotary import Rotary
from ttr.surroundings.keys.short_convolution import ShortConvolution
from ttr.surroundings.keys.silu import Silu
from ttr.surroundings.keys.time_step_value import TimeStepValue
from ttr.surroundings.keys.unit_norm import UnitNorm
from ttr.surroundings.output.gated_rms_norm import GatedRMSNorm
from ttr.surroundings.output.rms_norm import RMSNorm
from ttr.surroundings.output.silu_gate import SiluGate
from ttr.surroundings.output.skip import Skip
from ttr.weights.alibi import Alibi
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

ENTRIES: dict[str, Architecture] = {
    "linear-attention": Architecture(
        Problem(Uniform(), Linear(), OneStep()),
        output=(RMSNorm(),),
        source="Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs", arxiv="2006.16236", year=2020,
        original="fla.layers.LinearAttention", verified="memory: fla/ops/linear_attn/naive.py",
        note="Not normalised, without a feature map; the output norm of later stacks."),
    "linear-attention-normalized": Architecture(
        Problem(Uniform(), Linear(EluPlusOne(), normalized=True), OneStep()),
        source="Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs", arxiv="2006.16236", year=2020,
        original="fla.layers.LinearAttention", verified="memory: fla/ops/linear_attn/naive.py"),
    "based": Architecture(
        Problem(Uniform(), Linear(Taylor(), normalized=True, scale=1.0, eps=1e-6), OneStep()),
        source="Arora et al.: Simple linear attention language models balance the recall-throughput tradeoff", arxiv="2402.18668", year=2024,
        original="fla.layers.BasedLinearAttention", verified="memory: fla/ops/based/naive.py",
        note="The linear attention alone, without the sliding window beside it. Published with key_size=16."),
    "retnet": Architecture(
        Problem(MultiScale(first=5.0), Linear(), OneStep()),
        keys=(Rotary(),), output=(GatedRMSNorm("silu"),),
        source="Sun et al.: Retentive Network", arxiv="2307.08621", year=2023,
        original="fla.layers.MultiScaleRetention", verified="memory: fla/ops/retention/naive.py",
        note="Published with value_size = 2 key_size."),
    "gla": Architecture(
        Problem(Geometric("channel"), Linear(), OneStep()),
        controls=(LowRankDecay(),), output=(GatedRMSNorm("silu"),),
        source="Yang, Wang, Shen, Panda, Kim: Gated Linear Attention Transformers", arxiv="2312.06635", year=2023,
        original="fla.layers.GatedLinearAttention", verified="memory: fla/ops/gla/naive.py",
        note="Published with 2 key_size = value_size."),
    "mamba2": Architecture(
        Problem(Geometric("head"), Linear(scale=1.0), OneStep()),
        keys=(ShortConvolution(bias=True), TimeStepValue()), controls=(SoftplusDecay(slowest=1.0),),
        output=(Skip(of="input"), GatedRMSNorm("silu", over="all", gate_first=True)),
        source="Dao, Gu: Transformers are SSMs", arxiv="2405.21060", year=2024,
        original="transformers.models.mamba2.modeling_mamba2.Mamba2Mixer", verified="layer and memory: transformers models/mamba2",
        note="Groups are heads of q and k: heads=1 and value_heads=H for one group. Rates start uniform in 1..16, not at 1, 2, ..., H."),
    "hgrn2": Architecture(
        Problem(Geometric("channel"), Linear(), OneStep()),
        keys=(Silu(("q",)), ComplementKey()), controls=(BoundedForgetGate(),), output=(RMSNorm("all"),),
        source="Qin et al.: HGRN2: Gated Linear RNNs with State Expansion", arxiv="2404.07904", year=2024,
        original="fla.layers.HGRN2Attention", verified="memory: fla/ops/gla/naive.py with the gates of fla/layers/hgrn2.py",
        note="Each layer learns its lower bounds by itself; the original ties them by a cumulative softmax over layers."),
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
        keys=(ShortConvolution(bias=True),), controls=(SigmoidStepSize(),), output=(Skip(), SiluGate()),
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
    "mesanet": Architecture(
        Problem(Product((Geometric("head"), Importance())), Linear(scale=1.0), ExactRidge()),
        keys=(ShortConvolution(streams=("q", "k")), UnitNorm()), controls=(LogSigmoidDecay(), LogSigmoidImportance(), LearnedRidge()),
        output=(RMSNorm(),),
        source="von Oswald et al.: MesaNet", arxiv="2506.05233", year=2025,
        original="fla.layers.MesaNet", verified="memory: fla/ops/mesa_net/naive.py",
        note="Solved exactly; the original stops after at most 30 steps of conjugate gradient."),
    "intention": Architecture(
        Problem(Uniform(), Linear(scale=1.0), ExactRidge()),
        keys=(UnitNorm(),), controls=(ConstantRidge(1.0),),
        source="Garnelo, Czarnecki: Exploring the Space of Key-Value-Query Models with Intention", arxiv="2305.10203", year=2023,
        original=None, verified="memory: the closed form by LAPACK",
        note="Causal: every token fits its prefix. Unit keys keep the fixed ridge meaningful."),
    "softmax-attention": Architecture(
        Problem(Uniform(), LocalConstant(), ExactLocalFit()),
        keys=(Rotary(),),
        source="Vaswani et al.: Attention Is All You Need", arxiv="1706.03762", year=2017,
        original="torch.nn.functional.scaled_dot_product_attention", verified="memory: torch scaled_dot_product_attention",
        note="With rotary positions, arXiv 2104.09864."),
    "softmax-attention-qknorm": Architecture(
        Problem(Uniform(), LocalConstant(scale=10.0, unit_norm=True, learned_scale=True), ExactLocalFit()),
        keys=(Rotary(),),
        source="Henry, Dachapally, Pawar, Chen: Query-Key Normalization for Transformers", arxiv="2010.04245", year=2020,
        original=None, verified="memory: torch scaled_dot_product_attention on normalised inputs",
        note="With rotary positions; the learned scale of each head starts at 10."),
    "sliding-window-attention": Architecture(
        Problem(Window(128), LocalConstant(), ExactLocalFit()),
        keys=(Rotary(),),
        source="Beltagy, Peters, Cohan: Longformer", arxiv="2004.05150", year=2020,
        original="fla.layers.Attention", verified="memory: fla/ops/attn/naive.py",
        note="With rotary positions, and a window of 128 tokens, the newest included."),
    "alibi-attention": Architecture(
        Problem(Alibi(), LocalConstant(), ExactLocalFit()),
        source="Press, Smith, Lewis: Train Short, Test Long", arxiv="2108.12409", year=2021,
        original="transformers.models.bloom.modeling_bloom.BloomAttention", verified="memory: transformers models/bloom build_alibi_tensor"),
    "forgetting-attention": Architecture(
        Problem(Geometric("head"), LocalConstant(), ExactLocalFit()),
        controls=(LogSigmoidDecay(),),
        source="Lin, Nikishin, He, Courville: Forgetting Transformer", arxiv="2503.02130", year=2025,
        original="fla.layers.ForgettingAttention", verified="memory: fla/ops/forgetting_attn/naive.py",
        note="Without positions, as published; not the Pro block with its norms and output gate."),
    "local-linear-attention": Architecture(
        Problem(Uniform(), LocalLinear(), ExactLocalFit()),
        keys=(HeadRMSNorm(), Rotary()), controls=(LearnedRidge(start=1.0, at_least=0.1, per="head"),),
        source="Wang, Shi, Fox: Test-time regression; Zuo et al.: Local Linear Attention", arxiv="2510.01450", year=2025,
        original=None, verified="memory: weighted least squares by LAPACK",
        note="Norms of q and k bound the distances on which the fitted line is read."),
}


class UnknownName(KeyError):
    """A name that the catalogue does not have; the message is a sentence that suggests close ones."""

    def __str__(self) -> str:
        return self.args[0]


class _Catalogue(ModuleType, Mapping):
    """This module as the mapping of its entries."""

    def __getitem__(self, name: str) -> Architecture:
        if name not in ENTRIES:
            close = difflib.get_close_matches(str(name), ENTRIES, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(close)}?" if close else "ttr list shows the names."
            raise UnknownName(f"There is no memory called {name!r} in the catalogue. {hint}")
        return ENTRIES[name]

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


sys.modules[__name__].__class__ = _Catalogue
