"""Sums of pairs of features, mostly with a normalised read-out, and sums with fixed decays per head and
layer."""

from __future__ import annotations

from ttr.functions.features.dijiang import Dijiang
from ttr.functions.features.hedgehog import Hedgehog
from ttr.functions.features.positive_random import PositiveRandom
from ttr.functions.features.random_fourier import RandomFourier
from ttr.functions.features.rebased import Rebased
from ttr.functions.features.symmetric_power import SymmetricPower
from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.projected import LogSigmoidGate
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.layerwise_decay import LayerwiseDecay
from ttr.weights.multi_scale import MultiScale
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "performer": Architecture(
        Problem(Uniform(), Linear(PositiveRandom(), normalized=True, scale=1.0, eps=1e-30), OneStep()),
        source="Choromanski et al.: Rethinking Attention with Performers",
        arxiv="2009.14794",
        year=2020,
        original=None,
        verified="memory: the weights of all pairs by its kernel, summed afresh for every token",
        note=(
            "The directions are drawn once. Released code adds 1e-4 to every feature and subtracts a "
            "maximum over future keys too."
        ),
    ),
    "rfa": Architecture(
        Problem(
            Uniform(), Linear(RandomFourier(amplitude=0.1), normalized=True, scale=1.0, floor=1.0), OneStep()
        ),
        source="Peng et al.: Random Feature Attention",
        arxiv="2103.02143",
        year=2021,
        original=None,
        verified="memory: the weights of all pairs by its kernel, summed afresh for every token",
        note=(
            "As released, without the gate of the publication: a sum of weights below 1 is not normalised. "
            "The directions are drawn once."
        ),
    ),
    "hedgehog": Architecture(
        Problem(Uniform(), Linear(Hedgehog(), normalized=True, scale=1.0, tied=False), OneStep()),
        source="Zhang, Bhatia, Kumbong, Ré: The Hedgehog & the Porcupine",
        arxiv="2402.04347",
        year=2024,
        original="fla.layers.LinearAttention",
        verified="memory: fla/modules/feature_map.py and fla/ops/linear_attn/naive.py",
        note="One softmax over z and -z together, with a factor 2, as in flash-linear-attention; the "
        "authors' code (HazyResearch/zoology) takes two, "
        "one of each sign, without it: another map. Every head has its own map, as published; in the "
        "original all heads share one.",
    ),
    "rebased": Architecture(
        Problem(Uniform(), Linear(Rebased(), normalized=True, scale=1.0, eps=1e-6), OneStep()),
        source=(
            "Aksenov et al.: Linear Transformers with Learnable Kernel Functions are Better In-Context Models"
        ),
        arxiv="2402.10644",
        year=2024,
        original="fla.layers.ReBasedLinearAttention",
        verified="memory: fla/modules/feature_map.py and fla/ops/rebased/naive.py",
        note="Queries and keys share gain and bias, as do the heads. Published with key_size=16.",
    ),
    "dijiang": Architecture(
        Problem(MultiScale(first=5.0, last=9.0), Linear(Dijiang(), scale=1.0), OneStep()),
        qkv=(Rotary(),),
        output=(GatedRMSNorm("silu"),),
        source="Chen et al.: DiJiang",
        arxiv="2403.19928",
        year=2024,
        original=None,
        verified="memory: the released parallel form, whose powers of the decay are folded into q and k",
        note=(
            "As released: decayed and not normalised. An RMSNorm per head replaces the GroupNorm; all "
            "channels are rotated, in Pythia a quarter."
        ),
    ),
    "power-attention": Architecture(
        Problem(
            Geometric("head"), Linear(SymmetricPower(2), normalized=True, scale=1.0, eps=1e-6), OneStep()
        ),
        qkv=(Rotary(),),
        gates=(LogSigmoidGate("log_decay"),),
        source="Gelada, Buckman, Zhang, Bach: Scaling Context Requires Rethinking Attention",
        arxiv="2507.04239",
        year=2025,
        original=None,
        verified=(
            "memory: the weights of all pairs by the power of their scores, summed afresh for every token"
        ),
        note="The release subtracts a maximum before it adds eps, so that eps has less effect there.",
    ),
    "lightning-attention": Architecture(
        Problem(LayerwiseDecay(), Linear(scale=1.0), OneStep()),
        qkv=(Silu(),),
        output=(GatedRMSNorm("sigmoid", over="all", eps=1e-6),),
        source="MiniMax: MiniMax-01; Qin et al.: Lightning Attention-2 (arXiv 2401.04658)",
        arxiv="2501.08313",
        year=2025,
        original="transformers.models.minimax.modeling_minimax.MiniMaxLightningAttention",
        verified="layer and memory: transformers models/minimax",
        note="The decay falls with depth. Its slopes 2^(-8 (h + 1) / H) are those of transformers for every "
        "number of heads H; the authors' code has "
        "those of ALiBi, which differ where H is no power of two. flash-linear-attention's layer of "
        "this name has other decays and a scale.",
    ),
}
