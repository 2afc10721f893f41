"""Identities of feature maps, normalised read-outs and decays that depend on the layer, and what
distinguishes them from similar layers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import ttr
from tests.test_mixer import D, compare_with, heads_first, off_start
from ttr.component import Component
from ttr.functions.features.dijiang import Dijiang
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.hedgehog import Hedgehog
from ttr.functions.features.identity import Identity
from ttr.functions.features.positive_random import PositiveRandom
from ttr.functions.features.random_fourier import RandomFourier
from ttr.functions.features.rebased import Rebased
from ttr.functions.features.symmetric_power import SymmetricPower
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.laws.tolerances import FLOAT64, HALF, error
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.nn import Mixer
from ttr.problem import Function, Problem, Weights
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.layerwise_decay import LayerwiseDecay
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform

B, T, H, K, V = 2, 9, 2, 4, 3
UNIFORM = Uniform()
NOTHING = 1e-30
"""A number beside which every sum of weights is negligible."""


@pytest.fixture
def qkv() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(B, T, H, size, generator=generator, dtype=torch.float64)
        for name, size in (("q", K), ("k", K), ("v", V))
    }


def run(
    function: Function,
    qkv: dict[str, Tensor],
    params: dict[str, Tensor] | None = None,
    weights: Weights = UNIFORM,
    **controls: Tensor,
) -> Tensor:
    params = {f"function.{name}": tensor for name, tensor in (params or {}).items()}
    return ttr.oracle(Problem(weights, function, OneStep()), **qkv, params=params, **controls)


def drawn(function: Function, key_size: int = K) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    params = ttr.init_params(
        Problem(Uniform(), function, OneStep()), heads=H, key_size=key_size, value_size=V, generator=generator
    )
    return {name.removeprefix("function."): tensor.double() for name, tensor in params.items()}


def same(value: Tensor, reference: Tensor) -> bool:
    return error(value, reference) <= FLOAT64


# ---------------------------------------------------------------------------------------------------- kernels
def test_random_features_tend_to_softmax_attention(qkv) -> None:
    qkv |= {name: qkv[name] / 4 for name in "qk"}
    function = Linear(PositiveRandom(20_000), normalized=True, scale=1.0, eps=NOTHING)
    softmax = ttr.oracle(Problem(Uniform(), LocalConstant(), ExactLocalFit()), **qkv)
    assert error(run(function, qkv, drawn(function)), softmax) <= HALF
    assert error(run(function, qkv | {"q": 2 * qkv["q"]}, drawn(function)), softmax) > HALF


@pytest.mark.parametrize("tau", [1.0, 1.5])
def test_random_fourier_features_tend_to_softmax_attention_of_unit_vectors(qkv, tau) -> None:
    function = Linear(RandomFourier(20_000, tau=tau, eps=NOTHING), normalized=True, scale=1.0, floor=NOTHING)
    softmax = ttr.oracle(
        Problem(Uniform(), LocalConstant(scale=tau**-2, unit_norm=True), ExactLocalFit()), **qkv
    )
    assert error(run(function, qkv, drawn(function)), softmax) <= HALF
    assert (
        error(
            ttr.oracle(
                Problem(Uniform(), LocalConstant(scale=2 * tau**-2, unit_norm=True), ExactLocalFit()), **qkv
            ),
            softmax,
        )
        > HALF
    )


def test_directions_of_a_block_are_orthogonal_and_have_no_preferred_sign() -> None:
    directions = drawn(Linear(PositiveRandom(400 * K)), K)["directions"]
    blocks = directions.unflatten(0, (-1, K))
    products = blocks @ blocks.mT / blocks.norm(dim=-1, keepdim=True) / blocks.norm(dim=-1)[:, None]
    assert error(products.float(), torch.eye(K).expand_as(products)) <= HALF
    assert (directions > 0).any(0).all() and (directions < 0).any(0).all()


def test_second_taylor_polynomial_is_half_a_square_and_a_half(qkv) -> None:
    """1 + u + u^2/2 = ((1 + u)^2 + 1) / 2, and (1 + u)^2 is the square of the scores of keys with one channel
    more."""
    size = K + 1
    longer = qkv | {
        name: torch.cat([qkv[name] / K**0.25, torch.ones(B, T, H, 1)], dim=-1) * size**0.25 for name in "qk"
    }
    square, plain = run(Linear(SymmetricPower(2), scale=1.0), longer), qkv["v"].cumsum(1)
    assert same(run(Linear(Taylor(), scale=1.0), qkv), (square + plain) / 2)


@pytest.mark.parametrize("degree", [2, 4, 6])
def test_symmetric_power_is_the_tensor_power(qkv, degree) -> None:
    """Every monomial once, with its weight, equals the outer product of all factors, in which it occurs
    several times."""
    full = {name: qkv[name] / K**0.25 for name in "qk"}
    for name, factor in full.items():
        for _ in range(degree - 1):
            full[name] = (full[name][..., None] * factor[..., None, :]).flatten(-2)
    assert same(run(Linear(SymmetricPower(degree), scale=1.0), qkv), run(Linear(scale=1.0), qkv | full))
    assert same(
        run(Linear(SymmetricPower(degree)), qkv | {"k": -qkv["k"]}), run(Linear(SymmetricPower(degree)), qkv)
    )


def test_rebased_sees_neither_shift_nor_scale_of_its_keys(qkv) -> None:
    function = Linear(Rebased(eps=NOTHING), normalized=True)
    params = drawn(function)
    assert same(run(function, qkv | {"k": 3 * qkv["k"] + 2}, params), run(function, qkv, params))


def test_dijiang_with_diagonal_zero_weighs_all_pairs_alike(qkv) -> None:
    assert same(run(Linear(Dijiang(), scale=1.0), qkv, {"diagonal": torch.zeros(K)}), qkv["v"].cumsum(1) / K)


def test_hedgehog_with_bias_zero_swaps_its_halves_with_the_sign(qkv) -> None:
    params = drawn(Linear(Hedgehog()))
    there, back = (Hedgehog()(sign * qkv["k"], params) for sign in (1, -1))
    assert same(back, there.roll(K, dims=-1))
    assert same(there.sum(-1), torch.ones(B, T, H))


def test_two_softmaxes_are_another_hedgehog(qkv) -> None:
    """As in other releases: separate softmaxes of z and of -z, without the factor 2."""
    two = {name: torch.cat([qkv[name].softmax(-1), (-qkv[name]).softmax(-1)], dim=-1) for name in "qk"}
    one = run(Linear(Hedgehog(), normalized=True), qkv, drawn(Linear(Hedgehog())))
    assert error(run(Linear(Identity(), normalized=True), qkv | two), one) > HALF


def test_performer_is_no_function_of_later_keys(qkv) -> None:
    """In the published code it is: a maximum over all keys is subtracted before 1e-4 is added."""
    function = Linear(PositiveRandom(6), normalized=True, scale=1.0, eps=NOTHING)
    params = {"directions": 3 * drawn(function)["directions"]}
    likely = (K**0.25 * params["directions"][0]).expand(B, 1, H, K)
    later = qkv | {"k": torch.cat([qkv["k"][:, :-1], likely], dim=1)}
    assert torch.equal(run(function, later, params)[:, :-1], run(function, qkv, params)[:, :-1])
    assert (
        error(published(later, params["directions"])[:, :-1], published(qkv, params["directions"])[:, :-1])
        > HALF
    )


def published(qkv: dict[str, Tensor], directions: Tensor) -> Tensor:
    """The read-out of the published code with its own constant."""
    q, k = (qkv[name] / K**0.25 for name in "qk")
    logits = [x @ directions.mT - x.square().sum(-1, keepdim=True) / 2 for x in (q, k)]
    q, k = (
        (logits[0] - logits[0].amax(-1, keepdim=True)).exp() + 1e-4,
        (logits[1] - logits[1].amax((1, 3), keepdim=True)).exp() + 1e-4,
    )
    return run(Linear(normalized=True, scale=1.0), {"q": q, "k": k, "v": qkv["v"]})


# --------------------------------------------------------------------------------------------------- read-out
@pytest.mark.parametrize(
    "features", [EluPlusOne(), PositiveRandom(6), Hedgehog(), Rebased(), SymmetricPower(2)], ids=str
)
def test_normalised_weights_sum_to_one(qkv, features) -> None:
    function = Linear(features, normalized=True, eps=NOTHING)
    assert same(
        run(function, qkv | {"v": torch.ones(B, T, H, V, dtype=torch.float64)}, drawn(function)),
        torch.ones(B, T, H, V),
    )


def test_a_floor_above_all_sums_is_a_constant_divisor(qkv) -> None:
    assert same(run(Linear(normalized=True, floor=1000.0), qkv), run(Linear(), qkv) / 1000)
    assert same(run(Linear(normalized=True, floor=1000.0, absolute=True), qkv), run(Linear(), qkv) / 1000)


def test_a_floor_below_all_sums_is_none(qkv) -> None:
    positive = Linear(EluPlusOne(), normalized=True, eps=NOTHING)
    assert same(run(dataclasses.replace(positive, floor=NOTHING), qkv), run(positive, qkv))


def test_an_absolute_divisor_keeps_the_sign_of_the_sum(qkv) -> None:
    """sum / |weights| is sum / weights times the sign of the weights."""
    plain = run(Linear(normalized=True, eps=NOTHING), qkv)
    sign = run(
        Linear(normalized=True, floor=NOTHING, absolute=True),
        qkv | {"v": torch.ones(B, T, H, V, dtype=torch.float64)},
    )
    assert sign.min() < 0 < sign.max()
    assert same(run(Linear(normalized=True, floor=NOTHING, absolute=True), qkv), plain * sign)


def test_untied_features_with_equal_parameters_are_tied(qkv) -> None:
    own = drawn(Linear(Hedgehog()))
    both = {f"{side}.{name}": tensor for side in ("query", "key") for name, tensor in own.items()}
    assert same(run(Linear(Hedgehog(), tied=False), qkv, both), run(Linear(Hedgehog()), qkv, own))


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: Linear(normalized=True, floor=0.0), "Use a number above 0"),
        (lambda: Linear(floor=1.0), "Use floor with normalized=True"),
        (lambda: Linear(normalized=True, absolute=True), "absolute with floor"),
        (lambda: SymmetricPower(3), "Use an even degree"),
        (lambda: PositiveRandom(0), "Use a number from 1 on"),
        (lambda: RandomFourier(4, tau=0.0), "a tau above 0"),
        (lambda: MultiScale(5.0, last=-1.0), "Use numbers above 0"),
        (lambda: LayerwiseDecay(layer=2), "or neither"),
        (lambda: LayerwiseDecay(layer=2, layers=2), "from 0 to layers - 1"),
    ],
)
def test_what_has_no_meaning_is_refused(wrong, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        wrong()


# ----------------------------------------------------------------------------------------------------- decays
def test_five_even_steps_are_those_of_retnet() -> None:
    like = torch.zeros((), dtype=torch.float64)
    assert same(
        MultiScale(5.0, last=9.0).log_retention({}, {}, 5, like),
        MultiScale(5.0).log_retention({}, {}, 5, like),
    )


def test_layerwise_decay_is_geometric_with_its_slopes(qkv) -> None:
    slopes = torch.tensor([2.0**-4, 2.0**-8], dtype=torch.float64) * (1 - 1 / (2 + 1e-5) + 1e-5)
    gates = -slopes.expand(B, T, H)
    assert same(
        run(Linear(), qkv, weights=LayerwiseDecay(layer=1, layers=3)),
        run(Linear(), qkv, weights=Geometric(), log_decay=gates),
    )


def test_the_last_layer_forgets_almost_nothing_and_the_first_does(qkv) -> None:
    first, last = (
        run(Linear(), qkv, weights=LayerwiseDecay(exponent=2.0).at_layer(layer, 6)) for layer in (0, 5)
    )
    assert error(last, run(Linear(), qkv)) <= HALF < error(first, run(Linear(), qkv))


def test_a_weight_learns_its_layer_from_the_mixer_once() -> None:
    own, open_ = LayerwiseDecay(layer=1, layers=3), LayerwiseDecay()
    assert own.at_layer(4, 6) == own
    assert Product((Geometric(), open_)).at_layer(4, 6) == Product(
        (Geometric(), LayerwiseDecay(layer=4, layers=6))
    )
    assert Mixer(
        8, ttr.catalogue["lightning-attention"], heads=2, layer=4, layers=6
    ).problem.weights == LayerwiseDecay(layer=4, layers=6)
    problem = ttr.catalogue["gla"].problem
    assert problem.at_layer(4, 6) == problem


def test_every_layer_of_a_decoder_has_its_own_decay() -> None:
    model = TTRForCausalLM(
        TTRConfig(vocab_size=7, hidden_size=8, num_hidden_layers=3, num_heads=2, layers="lightning-attention")
    )
    assert [block.mixer.problem.weights for block in model.model.layers] == [
        LayerwiseDecay(layer=layer, layers=3) for layer in range(3)
    ]


def test_layers_survive_json() -> None:
    weights = LayerwiseDecay(layer=1, layers=3)
    assert Component.from_dict(weights.to_dict()) == weights


def test_lightning_attention_is_that_of_minimax() -> None:
    from transformers import MiniMaxConfig
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    heads, size = 2, 6
    config = MiniMaxConfig(
        hidden_size=D,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=size,
        num_hidden_layers=4,
        block_size=4,
    )
    original = off_start(MiniMaxLightningAttention(config, 1))
    q, k, v = heads_first(original.qkv_proj.weight, heads, 3, size).unbind(1)
    memory = ttr.catalogue["lightning-attention"]
    layer = Mixer(D, memory, heads=heads, key_size=size, value_size=size, layer=1, layers=4)
    compare_with(
        lambda x: original(x, None, None)[0],
        layer,
        {f"{name}_proj.weight": part.flatten(0, 1) for name, part in (("q", q), ("k", k), ("v", v))}
        | {
            "output.gated_rms_norm.gain": heads_first(original.norm.weight, heads, size),
            "output.gated_rms_norm.proj.weight": original.output_gate.weight,
            "o_proj.weight": original.out_proj.weight,
        },
    )
