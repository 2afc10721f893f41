"""``ttr.compat.fla``: the operators of flash-linear-attention, their arguments, results and states."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize, softplus

from tests.parity.originals import fla, in_float64, parity_folder
from ttr.compat import fla as ours
from ttr.laws.tolerances import FLOAT32, FLOAT64, error

B, T, H, K, V = 2, 12, 2, 4, 3


class Tensors:
    """Leaves of random numbers, by the names they have here."""

    def __init__(self, heads=H, value_heads=H):
        torch.manual_seed(0)
        self.q = torch.randn(B, T, heads, K)
        self.k = normalize(torch.randn(B, T, heads, K), dim=-1)
        self.v = torch.randn(B, T, value_heads, V)
        self.g, self.raw = (torch.randn(B, T, value_heads) for _ in range(2))
        self.gk = logsigmoid(torch.randn(B, T, value_heads, K))
        self.g, self.beta = logsigmoid(self.g), torch.rand(B, T, value_heads)
        self.state = torch.randn(B, value_heads, K, V)
        self.total = torch.rand(B, 1, heads, K)
        self.erased = torch.rand(B, T, heads, K)
        self.rate, self.bias = torch.rand(value_heads), torch.rand(value_heads)
        self.ridge = 0.25 + torch.rand(heads, K)
        for leaf in vars(self).values():
            leaf.requires_grad_()

    @property
    def qkv(self):
        return self.q, self.k, self.v

    @property
    def positive(self):
        return self.q.exp(), self.k.exp(), self.v


EMPTY = inspect.Parameter.empty


def published():
    """The arguments of the public functions of fla.ops: name -> [(argument, default)]."""
    found = {}
    for file in Path(parity_folder(), "fla", "ops").rglob("*.py"):
        text = file.read_text()
        if "backends" in file.parts or not any(f"\ndef {name}(" in text for name in ours.__all__):
            continue
        for function in ast.parse(text).body:
            if isinstance(function, ast.FunctionDef) and function.name in ours.__all__:
                given, defaults = function.args.args, [ast.literal_eval(d) for d in function.args.defaults]
                defaults = [EMPTY] * (len(given) - len(defaults)) + defaults
                found[function.name] = [(a.arg, default) for a, default in zip(given, defaults)]
    for alias in ("chunk", "fused_recurrent"):
        found[f"{alias}_gdn"] = found[f"{alias}_gated_delta_rule"]
    return found


@pytest.fixture(scope="module")
def originals():
    return published()


@pytest.mark.parametrize("name", ours.__all__)
def test_arguments_are_those_of_the_original(name, originals):
    mine = [p for p in inspect.signature(getattr(ours, name)).parameters.values() if p.name != "options"]
    assert len(mine) >= 6
    for mine_, (argument, default) in zip(mine, originals[name]):
        assert mine_.name == argument
        assert mine_.default in ((EMPTY, None) if default is EMPTY else (default,))


def naive(path, name, **fixed):
    original = getattr(fla(f"ops/{path}/naive.py", name), name)
    return lambda *tensors, **options: original(*tensors, **options | fixed)


def swapped(original):
    """An original whose tensors have their heads before the time."""

    def run(*tensors, **options):
        y, end = original(*(x.transpose(1, 2) for x in tensors), **options)
        return y.transpose(1, 2), end

    return run


WANTED = {"output_final_state": True}


def retention(x):
    gamma = torch.log1p(-(2.0 ** -(5.0 + torch.arange(H))))
    return naive("simple_gla", "naive_recurrent_simple_gla")(
        *x.qkv, gamma.expand(B, T, H), initial_state=x.state
    )


def lightning(x):
    gamma = -8 / H * (1 - 1 / 4) * torch.arange(H, dtype=torch.float64)
    return naive("simple_gla", "naive_recurrent_simple_gla")(
        *x.qkv, gamma.expand(B, T, H), initial_state=x.state
    )


def gated(x, q=None, k=None, g=None, beta=None, scale=None):
    """The gated delta rule by its original, of other tensors where they are given."""
    given = [b if a is None else a for a, b in zip((q, k, None, beta, g), (x.q, x.k, x.v, x.beta, x.g))]
    original = naive("gated_delta_rule", "naive_recurrent_gated_delta_rule")
    return original(*given, scale=scale, initial_state=x.state, **WANTED)


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def product(original, x):
    pairs = {
        name: torch.stack([a, a.flip(1)], 2).flatten(1, 2)
        for name, a in vars(x).items()
        if name in ("k", "v", "beta")
    }
    return original(
        x.q, pairs["k"], pairs["v"], x.g, pairs["beta"], num_householder=2, initial_state=x.state, **WANTED
    )


CASES = {
    "linear": (
        lambda x: ours.fused_recurrent_linear_attn(*x.qkv, initial_state=x.state, **WANTED),
        lambda x: naive("linear_attn", "naive_recurrent_linear_attn")(
            *x.qkv, initial_state=x.state, **WANTED
        ),
    ),
    "linear, normalized": (
        lambda x: ours.chunk_linear_attn(*x.positive, 0.3, (x.state, x.total), True),
        lambda x: naive("linear_attn", "naive_recurrent_linear_attn")(
            *x.positive, scale=0.3, initial_state=(x.state, x.total), normalize=True, **WANTED
        ),
    ),
    "simple_gla": (
        lambda x: ours.chunk_simple_gla(*x.qkv, x.g, None, 0.7, x.state, True),
        lambda x: naive("simple_gla", "naive_recurrent_simple_gla")(
            *x.qkv, x.g, scale=0.7, initial_state=x.state
        ),
    ),
    "retention": (lambda x: ours.chunk_retention(*x.qkv, None, x.state, True), retention),
    "lightning": (lambda x: ours.chunk_lightning_attn(*x.qkv, 1, 4, None, x.state, True), lightning),
    "gla": (
        lambda x: ours.chunk_gla(*x.qkv, x.gk, 0.7, x.state, True),
        lambda x: naive("gla", "naive_recurrent_gla")(
            0.7 * K**0.5 * x.q, x.k, x.v, x.gk, initial_state=x.state, **WANTED
        ),
    ),
    "gla, one step": (
        lambda x: ours.fused_recurrent_gla(*x.qkv, x.gk, None, 0.7, x.state, True),
        lambda x: naive("gla", "naive_recurrent_gla")(
            0.7 * K**0.5 * x.q, x.k, x.v, x.gk, initial_state=x.state, **WANTED
        ),
    ),
    "rwkv6": (
        lambda x: ours.chunk_rwkv6(*x.qkv, x.gk, x.gk[0, 0], 0.7, x.state, True),
        lambda x: swapped(
            lambda *t, **o: fla(
                "ops/rwkv6/recurrent_naive.py", "naive_recurrent_rwkv6"
            ).naive_recurrent_rwkv6(*t, x.gk[0, 0], **o)
        )(*x.qkv, x.gk, scale=0.7, initial_state=x.state, **WANTED),
    ),
    "delta": (
        lambda x: ours.chunk_delta_rule(*x.qkv, x.beta, None, x.state, True),
        lambda x: swapped(naive("delta_rule", "delta_rule_recurrence"))(
            *x.qkv, x.beta, initial_state=x.state
        ),
    ),
    "gated delta": (
        lambda x: ours.chunk_gated_delta_rule(*x.qkv, x.g, x.beta, 0.7, x.state, True),
        lambda x: gated(x, scale=0.7),
    ),
    "gated delta, everything inside": (
        lambda x: ours.fused_recurrent_gated_delta_rule(
            *x.qkv,
            x.raw,
            beta=x.raw,
            initial_state=x.state.mT,
            output_final_state=True,
            state_v_first=True,
            use_qk_l2norm_in_kernel=True,
            use_gate_in_kernel=True,
            A_log=x.rate,
            dt_bias=x.bias,
            use_beta_sigmoid_in_kernel=True,
            allow_neg_eigval=True,
        ),
        lambda x: (lambda y, end: (y, end.mT))(
            *gated(x, unit(x.q), unit(x.k), -x.rate.exp() * softplus(x.raw + x.bias), 2 * x.raw.sigmoid())
        ),
    ),
    "kda": (
        lambda x: ours.fused_recurrent_gated_delta_rule(*x.qkv, x.g, x.gk, None, x.beta, None, x.state, True),
        lambda x: naive("kda", "naive_recurrent_kda")(
            *x.qkv, x.g[..., None] + x.gk, x.beta, initial_state=x.state, **WANTED
        ),
    ),
    "kda, bounded gate inside": (
        lambda x: ours.fused_recurrent_kda(
            *x.qkv,
            x.gk,
            x.beta,
            x.rate,
            x.bias.repeat_interleave(K),
            None,
            x.state,
            True,
            use_gate_in_kernel=True,
            lower_bound=-5.0,
        ),
        lambda x: naive("kda", "naive_recurrent_kda")(
            *x.qkv,
            -5 * torch.sigmoid(x.rate.exp()[:, None] * (x.gk + x.bias[:, None])),
            x.beta,
            initial_state=x.state,
            **WANTED,
        ),
    ),
    "gated delta product": (
        lambda x: product(ours.chunk_gated_delta_product, x),
        lambda x: product(
            naive("gated_delta_product", "naive_recurrent_gated_delta_product", scale=K**-0.5), x
        ),
    ),
    "comba": (
        lambda x: ours.fused_recurrent_comba(x.q, x.k, x.k.flip(1), x.v, x.g, x.beta, None, x.state, True),
        lambda x: naive("comba", "naive_chunk_comba", chunk_size=4)(
            *x.qkv, x.k.flip(1), x.g, x.beta, initial_state=x.state, **WANTED
        ),
    ),
    "rwkv7": (
        lambda x: ours.chunk_rwkv7(
            x.q, x.gk, x.k, x.v, -x.k.flip(1), x.erased, initial_state=x.state, **WANTED
        ),
        lambda x: swapped(naive("generalized_delta_rule/dplr", "dplr_recurrence"))(
            K**0.5 * x.q, x.k, x.v, -x.k.flip(1), x.erased, x.gk, initial_state=x.state, **WANTED
        ),
    ),
    "rwkv7, one step": (
        lambda x: ours.fused_recurrent_rwkv7(x.q, x.gk, x.k, x.v, -x.k.flip(1), x.erased, 1.0, x.state),
        lambda x: swapped(naive("generalized_delta_rule/dplr", "dplr_recurrence"))(
            K**0.5 * x.q, x.k, x.v, -x.k.flip(1), x.erased, x.gk, initial_state=x.state, **WANTED
        ),
    ),
    "mesa": (
        lambda x: ours.chunk_mesa_net(x.q, x.k, x.k.flip(1), x.g, x.beta, x.ridge, max_CG_iteration=3)[:1],
        lambda x: naive("mesa_net", "naive_mesa_net_CG")(
            x.q, x.k, x.k.flip(1), x.g, x.ridge, x.beta, chunk_size=T, max_CG_iteration=3
        )[:1],
    ),
    "forgetting": (
        lambda x: (ours.parallel_forgetting_attn(*x.qkv, x.g),),
        lambda x: (naive("forgetting_attn", "naive_forgetting_attn")(*x.qkv, x.g),),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_results_states_and_gradients_are_those_of_the_original(case):
    with in_float64():
        ran = []
        for run in CASES[case]:
            x = Tensors()
            done = [y for group in run(x) for y in (group if isinstance(group, tuple) else (group,))]
            torch.stack([(y * y.detach().cos()).sum() for y in done]).sum().backward()
            ran.append((done, {name: leaf.grad for name, leaf in vars(x).items() if leaf.grad is not None}))
    (mine, my_gradients), (theirs, their_gradients) = ran
    assert my_gradients.keys() == their_gradients.keys() and len(my_gradients) >= 4
    for a, b in [
        *zip(mine, theirs, strict=True),
        *((g, their_gradients[n]) for n, g in my_gradients.items()),
    ]:
        assert a.shape == b.shape and error(a, b) <= FLOAT64


def test_packed_sequences_and_grouped_heads():
    q, k, v = torch.randn(1, 9, 2, K), normalize(torch.randn(1, 9, 2, K), dim=-1), torch.randn(1, 9, 4, V)
    g, beta, state = logsigmoid(torch.randn(1, 9, 4)), torch.rand(1, 9, 4), torch.randn(2, 4, K, V)
    past = {"initial_state": state, "output_final_state": True}
    packed = torch.tensor([0, 4, 9])
    y, end = ours.chunk_gated_delta_rule(
        q, k, v, g, beta, cu_seqlens=packed, cu_seqlens_cpu=packed, chunk_size=64, **past
    )
    for row, (start, stop) in enumerate(((0, 4), (4, 9))):
        past["initial_state"] = state[row : row + 1]
        alone, its_end = ours.chunk_gated_delta_rule(*(x[:, start:stop] for x in (q, k, v, g, beta)), **past)
        assert error(y[:, start:stop], alone) <= FLOAT32 and error(end[row], its_end[0]) <= FLOAT32


def test_attention_with_a_window_forgets_what_is_outside():
    x = Tensors()
    y = ours.parallel_attn(*x.qkv, x.g, window_size=3)
    changed = ours.parallel_attn(x.q, x.k, torch.cat([x.v[:, :4] + 1, x.v[:, 4:]], 1), x.g, window_size=3)
    assert torch.equal(y[:, 6:], changed[:, 6:]) and not torch.equal(y[:, 5], changed[:, 5])


@pytest.mark.parametrize("option", [{"reverse": True}, {"head_first": True}, {"cp_context": object()}])
def test_an_option_that_would_change_the_result_is_refused(option):
    x = Tensors()
    with pytest.raises(ValueError, match=f"option {next(iter(option))} is not supported"):
        ours.fused_recurrent_simple_gla(*x.qkv, x.g, **option)


def test_decays_per_value_channel_are_refused():
    x = Tensors()
    for operator in (ours.fused_recurrent_gla, ours.fused_recurrent_gated_delta_rule):
        with pytest.raises(ValueError, match="option gv is not supported"):
            operator(*x.qkv, gv=x.v)
