"""Law 12 on every instruction set and without kernels, in all dtypes of a call."""

import dataclasses

import pytest
import torch

import ttr
from tests.tiers import TIERS, tier
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.laws import LAWS, Setting

LAW = next(law for law in LAWS if law.number == 12 and not law.slow)
TTT = ttr.catalogue["ttt-mlp"].problem
KERNELS = {
    name: ttr.catalogue[name].problem
    for name in ("linear-attention", "mamba", "kda", "rwkv6", "local-linear-attention")
} | {"ttt-mlp": dataclasses.replace(TTT, solver=dataclasses.replace(TTT.solver, chunk=3))}
"""A problem for each kind of kernel, with chunks so short that a call fills some."""
ATTENTION = (
    "softmax-attention",
    "softmax-attention-qknorm",
    "sliding-window-attention",
    "alibi-attention",
    "forgetting-attention",
)


def check(problem, dtype):
    for engine in (engine for engine in ENGINES if refusal(engine, problem) is None):
        broken = [m for m in LAW(problem, Setting(engine.small(), dtype=dtype)) if not m.passed]
        assert not broken, (engine.name, broken)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("way", TIERS)
def test_layouts_on_every_tier(way, name):
    with tier(way):
        check(KERNELS[name], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ATTENTION)
def test_layouts_of_fused_attention(name, dtype):
    check(ttr.catalogue[name].problem, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_layouts_in_narrow_types(name, dtype):
    check(KERNELS[name], dtype)
