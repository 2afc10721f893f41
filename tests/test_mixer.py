"""The mixer: for every memory and all parts around it, whole = segments = steps, packed = separate, and each
row of the batch is independent."""

import copy
import dataclasses

import pytest
import torch

import ttr
from ttr.functions.linear import Linear
from ttr.laws.layout import LAYOUTS
from ttr.laws.rows import triples
from ttr.laws.tolerances import FLOAT32, FLOAT64, HALF, error
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import MambaDecay
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.output.gates import OutputGate
from ttr.layer.output.norms import RMSNorm
from ttr.layer.output.skips import Skip
from ttr.layer.qkv.norms import HeadRMSNorm
from ttr.layer.qkv.pointwise import QueryCorrection, Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.qkv.time_steps import TimeStepValue
from ttr.layer.sequences import Sequences
from ttr.nn import Mixer
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.weights.geometric import Geometric

D, B, T = 8, 2, 7

CROWDED = Architecture(
    Problem(Geometric("head"), Linear(), DeltaRule(pairs_per_token=3)),
    qkv=(
        Silu(("v",)),
        ShortConvolution(width=3, bias=True),
        QueryCorrection(),
        HeadRMSNorm(),
        Rotary(base=10.0),
        TimeStepValue(),
    ),
    gates=(MambaDecay(), SigmoidGate("step_size")),
    output=(Skip(), Skip("input"), RMSNorm("all"), OutputGate("sigmoid")),
)
"""Parts that no entry combines, around a memory with several pairs per token."""

SAMPLE = triples()[3 :: max(1, len(triples()) // 14)]


def with_full_chunks(entry: Architecture) -> Architecture:
    """The entry with chunks so short that a few tokens fill them."""
    if getattr(entry.problem.solver, "chunk", 0) < T:
        return entry
    return dataclasses.replace(
        entry,
        problem=dataclasses.replace(entry.problem, solver=dataclasses.replace(entry.problem.solver, chunk=3)),
    )


MEMORIES = {name: with_full_chunks(entry) for name, entry in ttr.catalogue.items()}
MEMORIES |= {"crowded": CROWDED} | {f"bare {problem!r}": problem for problem in SAMPLE}
MEMORIES = {
    name: memory for name, memory in MEMORIES.items() if getattr(memory, "problem", memory).function.causal
}
"""The entries without states have tests of their own."""
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def mixer(memory, **sizes):
    weights = (memory.problem if isinstance(memory, Architecture) else memory).weights
    values = {"value_size": 4 if getattr(weights, "complex_values", False) else 3}
    layer = Mixer(D, memory, **{"heads": 2, "key_size": 4, "layer": 1, "layers": 3} | values | sizes).double()
    with torch.no_grad():  # gains, biases and rates away from their uniform initial values
        for parameter in layer.parameters():
            parameter += 0.3 * torch.rand_like(parameter)
    return layer


def assert_states_equal(got, wanted):
    assert set(got) == set(wanted) and torch.equal(got.position, wanted.position)
    for name in wanted:
        assert error(got[name], wanted[name]) <= FLOAT64, name


def inputs(batch=B, time=T):
    return torch.randn(batch, time, D, dtype=torch.float64)


# ------------------------------------------------------------------------------------- whole, segments, steps
@every_memory
def test_whole_is_any_split_is_step_by_step(memory):
    layer, x = mixer(memory), inputs()
    whole, end = layer(x, return_state=True)
    assert whole.shape == x.shape and error(layer(x), whole) <= FLOAT64 and torch.isfinite(whole).all()
    for cuts in ((0, T), (2, T - 2), (1, 1, 0, T - 2)):
        state, parts = None, []
        for part in x.split(cuts, dim=1):
            y, state = layer(part, state, return_state=True)
            parts.append(y)
        assert error(torch.cat(parts, dim=1), whole) <= FLOAT64
        assert_states_equal(state, end)
    state, steps = layer.initial_state(B), []
    for token in x.unbind(1):
        kept = state.clone()
        y, new = layer.step(token, state)
        assert_states_equal(state, kept)
        steps.append(y)
        state = new
    assert error(torch.stack(steps, dim=1), whole) <= FLOAT64
    assert_states_equal(state, end)


@every_memory
def test_layout_changes_nothing(memory):
    layer = mixer(memory).eval()
    x = inputs()
    with torch.no_grad():
        _, past = layer(x, return_state=True)
        whole, end = layer(x, past, return_state=True)
        token, _ = layer.step(x[:, 0], past)
        for lay in LAYOUTS.values():
            odd = past.map(lambda tensor, lay=lay: lay(tensor)[1]).replace(position=lay(past.position)[1])
            y, state = layer(lay(x)[1], odd, return_state=True)
            assert error(y, whole) <= FLOAT64
            assert_states_equal(state, end)
            assert error(layer.step(lay(x[:, 0])[1], odd, inplace=True)[0], token) <= FLOAT64


@every_memory
def test_packed_is_separate(memory):
    """Outputs, gradients and states, from the start and continued; one sequence is empty."""
    layer, lengths = mixer(memory), (3, 0, 1, 5)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    first, second = (inputs(1, sum(lengths)).requires_grad_() for _ in range(2))
    y1, state = layer(first, return_state=True, cu_seqlens=bounds)
    y2, end = layer(second, state, return_state=True, cu_seqlens=bounds.int())
    alone, ends = [], []
    for a, b in zip(first[0].split(lengths), second[0].split(lengths), strict=True):
        u, middle = layer(a[None], return_state=True)
        v, last = layer(b[None], middle, return_state=True)
        alone.append((u[0], v[0]))
        ends.append(last)
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    assert error(y1[0], expected[0]) <= FLOAT64 and error(y2[0], expected[1]) <= FLOAT64
    assert_states_equal(end, ttr.State.cat(ends))
    leaves = [first, second, *(p for p in layer.parameters() if p.requires_grad)]
    direction = torch.randn(2, sum(lengths), D, dtype=torch.float64)
    packed = torch.autograd.grad(
        (torch.cat([y1, y2]) * direction).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    separate = torch.autograd.grad(
        (torch.stack(expected) * direction).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    assert all(error(a, b) <= FLOAT64 for a, b in zip(packed, separate, strict=True))


@every_memory
def test_causal_and_row_by_row(memory):
    layer, x = mixer(memory), inputs()
    y, other = layer(x), x.clone()
    other[0, 4] += 1.0
    changed = (layer(other) - y).abs().amax(-1)
    assert torch.equal(changed[0, :4], torch.zeros(4, dtype=torch.float64)) and changed[0, 4] > 0
    assert error(layer(other)[1], y[1]) <= FLOAT64


@every_memory
def test_every_parameter_is_used_and_moved_by_a_step(memory):
    layer = mixer(memory)
    layer(inputs()).square().sum().backward()
    unused = [
        name
        for name, p in layer.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.abs().max() == 0)
    ]
    assert not unused and all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.requires_grad)


@every_memory
def test_narrow_parameters(memory):
    """A layer in bfloat16 returns bfloat16, stores its state in float32, and is close to the layer with the
    same numbers in float64."""
    narrow = mixer(memory).bfloat16()
    x = inputs().bfloat16()
    y, state = narrow(x, return_state=True)
    assert y.dtype == torch.bfloat16 and all(state[name].dtype == torch.float32 for name in state)
    rows = [layer_rows.double() for layer_rows in (y, copy.deepcopy(narrow).double()(x.double()))]
    assert error(*rows) <= 5 * HALF


# ----------------------------------------------------------------------------------------- sizes and grouping
@pytest.mark.parametrize(
    "heads",
    [
        {"heads": 4, "key_heads": 2, "value_heads": 2},
        {"heads": 2, "key_heads": 1, "value_heads": 4},
        {"heads": 1, "key_heads": 1, "value_heads": 2},
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["softmax-attention", "gated-deltanet", "mamba2", "comba", "mesanet", "kda"])
def test_grouped_heads(name, heads):
    if name == "mamba2" and heads["heads"] == 4:
        with pytest.raises(ValueError, match="Use value_heads = 4"):
            mixer(ttr.catalogue[name], **heads)
        return
    layer, x = mixer(ttr.catalogue[name], **heads), inputs()
    whole, end = layer(x, return_state=True)
    first, state = layer(x[:, :3], return_state=True)
    second, state = layer(x[:, 3:], state, return_state=True)
    assert error(torch.cat([first, second], dim=1), whole) <= FLOAT64
    assert_states_equal(state, end)


@pytest.mark.parametrize("name", ["gated-deltanet", "comba"])
def test_grouped_keys_are_repeated_keys(name):
    """Fewer key and value heads equal more heads that are copies of each other."""
    grouped = mixer(ttr.catalogue[name], heads=4, key_heads=2, value_heads=2)
    full = mixer(ttr.catalogue[name], heads=4)
    tensors = grouped.state_dict()
    for stream, shape in (("k", (2, 4)), ("v", (2, 3))):
        tensors[f"{stream}_proj.weight"] = (
            tensors[f"{stream}_proj.weight"].unflatten(0, shape).repeat_interleave(2, 0).flatten(0, 1)
        )
        convolution = next(key for key in tensors if key.startswith("qkv.") and key.endswith(f".{stream}"))
        tensors[convolution] = tensors[convolution].repeat_interleave(2, 1)
    full.load_state_dict(tensors)
    x = inputs()
    assert error(grouped(x), full(x)) <= FLOAT64


def test_a_control_made_after_the_keys_sees_what_the_memory_gets():
    layer = mixer(ttr.catalogue["comba"])
    streams, _ = layer.project(inputs(B, 1), _sequences(layer, B), layer.initial_state(B).tensors)
    share = next(p for name, p in layer.named_parameters() if name.endswith("share"))
    assert error(streams["k"].norm(dim=-1), torch.ones(B, 1, 2)) <= FLOAT32
    assert error(streams["read_key"], share.sigmoid()[:, None] * streams["k"]) <= FLOAT64


def test_the_lowest_layer_of_hgrn2_has_no_bound_and_higher_ones_remember_longer():
    torch.manual_seed(0)
    decays = []
    for number in range(3):
        layer = Mixer(D, ttr.catalogue["hgrn2"], heads=2, layer=number, layers=3)
        streams, _ = layer.project(torch.zeros(1, 1, D), _sequences(layer, 1), {})
        decays.append(streams["log_decay"].exp().unique().tolist())
    assert [len(d) for d in decays] == [1, 1, 1]
    assert [round(d[0], 5) for d in decays] == [0.5, round(1 / 3 + 2 / 3 / 2, 5), round(2 / 3 + 1 / 3 / 2, 5)]


def _sequences(layer, batch):
    return Sequences(1, layer.initial_state(batch).position)


@pytest.mark.parametrize("name", ["softmax-attention", "local-linear-attention", "sliding-window-attention"])
def test_a_capacity_fixes_the_size_of_the_state(name):
    layer, x = mixer(ttr.catalogue[name]), inputs()
    state = layer.initial_state(B, capacity=T)
    size = state.nbytes
    y, end = layer(x, state, return_state=True)
    assert error(y, layer(x)) <= FLOAT64 and end.nbytes == size and end.capacity == state.capacity


def test_state_counts_the_tails_of_the_convolutions():
    layer = Mixer(D, ttr.catalogue["gated-deltanet"], heads=2, key_size=4, value_size=3)
    state = layer.initial_state(B)
    assert {name: tuple(state[name].shape) for name in state} == {
        "memory": (B, 2, 4, 3),
        "conv.q": (B, 3, 2, 4),
        "conv.k": (B, 3, 2, 4),
        "conv.v": (B, 3, 2, 3),
    }
    assert state.nbytes == 4 * B * (24 + 24 + 24 + 18)


def test_a_layer_is_saved_whole():
    layer, x = mixer(CROWDED), inputs()
    other = mixer(CROWDED)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))


def test_memory_parameters_are_the_layers():
    layer = Mixer(D, ttr.catalogue["softmax-attention-qknorm"], heads=2)
    scale = dict(layer.named_parameters())["memory.function.scale"]
    assert torch.equal(scale.detach(), torch.full((2,), 10.0))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"memory": "gated-deltanet"}, r"ttr.catalogue\['gated-deltanet'\]"),
        ({"memory": 3}, "an Architecture or a Problem, got 3"),
        ({"heads": 3}, "d_model = 8 is not a multiple of heads = 3"),
        ({"heads": 4, "key_heads": 3}, "must each divide the largest number, got 4, 3, 4"),
        ({"heads": 0}, "heads must be a whole number from 1 on, got 0"),
        ({"memory": ttr.catalogue["hgrn2"], "key_heads": 1}, "Use key_heads = 2"),
    ],
)
def test_wrong_sizes_are_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixer(D, **{"memory": ttr.catalogue["gated-deltanet"], "heads": 2} | arguments)


def test_wrong_calls_are_a_sentence():
    layer, x = mixer(ttr.catalogue["gated-deltanet"]), inputs()
    _, state = layer(x, return_state=True)
    with pytest.raises(ValueError, match="takes vectors of 8 channels, got an input of shape"):
        layer(x[..., :5])
    with pytest.raises(ValueError, match=r"'conv.q' must have shape \[1, 3, 2, 4\], but is \[2, 3, 2, 4\]"):
        layer(x[:1], state)
    with pytest.raises(ValueError, match="'conv.q' must have shape .* but is missing"):
        layer(x, mixer(ttr.catalogue["gla"]).initial_state(B))
    with pytest.raises(ValueError, match="batch of 1"):
        layer(x, cu_seqlens=torch.tensor([0, T]))
    with pytest.raises(ValueError, match="no engine 'fast'"):
        mixer(ttr.catalogue["gla"], engine="fast")(x)


# ------------------------------------------------------------ whole layers against transformers, same weights
def heads_first(weight, *shape):
    """A weight of transformers with its output channels split into ``shape``."""
    return weight.detach().unflatten(0, shape)


def compare_with(original, layer, tensors):
    """Load all tensors and compare with the original on a sequence; the original computes in float32."""
    layer.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()})
    x = torch.randn(2, 11, D)
    with torch.no_grad():
        assert error(layer.double()(x.double()), original(x)) <= FLOAT32


def off_start(module):
    """The module with every parameter changed from its initial value, so that no bias is 0 and no gain is
    1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.rand_like(parameter)
    return module.eval()


def convolutions(conv1d, shapes):
    """Weights [width, heads, channels] of the streams that share one convolution."""
    parts = conv1d.weight.detach()[:, 0].split([heads * size for heads, size in shapes.values()])
    return {
        name: part.T.unflatten(1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def test_gated_deltanet_is_that_of_qwen3_next():
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    keys, values, size, wide = 2, 4, 4, 3
    config = Qwen3NextConfig(
        hidden_size=D,
        linear_num_key_heads=keys,
        linear_num_value_heads=values,
        linear_key_head_dim=size,
        linear_value_head_dim=wide,
        rms_norm_eps=1e-5,
        num_hidden_layers=1,
    )
    original = off_start(Qwen3NextGatedDeltaNet(config, 0))
    q, k, v, z = heads_first(original.in_proj_qkvz.weight, keys, -1).split(
        [size, size, 2 * wide, 2 * wide], dim=1
    )
    b, a = (part.flatten(0, 1) for part in heads_first(original.in_proj_ba.weight, keys, -1).split(2, dim=1))
    convolution = convolutions(original.conv1d, {"q": (keys, size), "k": (keys, size), "v": (values, wide)})
    layer = Mixer(
        D, ttr.catalogue["gated-deltanet"], heads=keys, value_heads=values, key_size=size, value_size=wide
    )
    compare_with(
        original,
        layer,
        {f"{name}_proj.weight": part.flatten(0, 1) for name, part in (("q", q), ("k", k), ("v", v))}
        | {f"qkv.short_convolution.{name}": weight for name, weight in convolution.items()}
        | {
            "gates.log_decay.proj.weight": a,
            "gates.log_decay.bias": original.dt_bias,
            "gates.log_decay.rate": original.A_log,
            "gates.step_size.proj.weight": b,
            "output.gated_rms_norm.proj.weight": z.reshape(values * wide, D),
            "output.gated_rms_norm.gain": original.norm.weight,
            "o_proj.weight": original.out_proj.weight,
        },
    )


def test_mamba2_is_that_of_transformers():
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    heads, size, wide = 4, 5, 4
    config = Mamba2Config(
        hidden_size=D,
        num_heads=heads,
        head_dim=wide,
        state_size=size,
        n_groups=1,
        expand=2,
        num_hidden_layers=1,
    )
    original = off_start(Mamba2Mixer(config, 0))
    inner = heads * wide
    z, x, b, c, dt = original.in_proj.weight.detach().split([inner, inner, size, size, heads])
    shapes = {"v": (heads, wide), "k": (1, size), "q": (1, size)}
    bias = dict(zip(shapes, original.conv1d.bias.split([inner, size, size]), strict=True))
    layer = Mixer(D, ttr.catalogue["mamba2"], heads=1, value_heads=heads, key_size=size, value_size=wide)
    compare_with(
        original,
        layer,
        {"q_proj.weight": c, "k_proj.weight": b, "v_proj.weight": x}
        | {
            f"qkv.short_convolution.{name}": weight
            for name, weight in convolutions(original.conv1d, shapes).items()
        }
        | {
            f"qkv.short_convolution.{name}_bias": bias[name].unflatten(0, shape)
            for name, shape in shapes.items()
        }
        | {
            "gates.log_decay.proj.weight": dt,
            "gates.log_decay.bias": original.dt_bias,
            "gates.log_decay.rate": original.A_log,
            "output.skip.strength": original.D,
            "output.gated_rms_norm.gain": heads_first(original.norm.weight, heads, wide),
            "output.gated_rms_norm.proj.weight": z,
            "o_proj.weight": original.out_proj.weight,
        },
    )


def test_softmax_attention_with_norms_is_that_of_qwen3():
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding

    config = Qwen3Config(
        hidden_size=D, num_attention_heads=4, num_key_value_heads=2, head_dim=6, attn_implementation="sdpa"
    )
    original = off_start(Qwen3Attention(config, 0))
    memory = dataclasses.replace(
        ttr.catalogue["softmax-attention"],
        qkv=(HeadRMSNorm(), Rotary(base=config.rope_parameters["rope_theta"])),
    )
    layer = Mixer(D, memory, heads=4, key_heads=2, value_heads=2, key_size=6, value_size=6)
    positions = Qwen3RotaryEmbedding(config)(torch.zeros(1), torch.arange(11)[None])
    compare_with(
        lambda x: original(x, positions, None)[0],
        layer,
        {f"{name}_proj.weight": getattr(original, f"{name}_proj").weight for name in "qkv"}
        | {f"qkv.head_rms_norm.{name}": getattr(original, f"{name}_norm").weight for name in "qk"}
        | {"o_proj.weight": original.o_proj.weight},
    )


LARGE = ("atlas", "local-quadratic-attention")
"""Memories whose fresh layer takes minutes, or gigabytes, at heads of 64 channels."""


@pytest.mark.parametrize("name", [name for name in ttr.catalogue if name not in LARGE])
def test_a_fresh_layer_does_not_diverge(name):
    """With heads of 64 channels, at which the steps of a network add up to more than with few."""
    torch.manual_seed(0)
    layer = Mixer(256, ttr.catalogue[name], heads=4)
    with torch.no_grad():
        y = layer(torch.randn(1, 512, 256))[0]
    assert y.isfinite().all() and y[-64:].std() <= 4 * y[64:128].std()
