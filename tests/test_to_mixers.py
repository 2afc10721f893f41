"""Recurrent layers of transformers as Mixers: the same model, under the same names."""

import copy
import functools
from itertools import pairwise

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from transformers import AutoModelForCausalLM, Mamba2Config, Mamba2ForCausalLM

import ttr
from ttr.experiments.bench import hybrids
from ttr.experiments.bench.hybrids import TINY
from ttr.integrations.transformers import MemoryMixer, accelerate, restore, to_mixers
from ttr.laws.tolerances import FLOAT32_OUTPUTS, error

FAMILIES = {
    name: hybrids.FAMILIES[name]
    for name in ("qwen3-next", "qwen3.5", "olmo-hybrid", "kimi-linear", "mamba2", "bamba", "granite-4-hybrid")
} | {"qwen3.5-moe": ("Qwen3_5Moe", hybrids.FAMILIES["qwen3-next"][1])}
QUICK = ("qwen3-next", "kimi-linear", "mamba2")
GREEDY = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def families():
    return [pytest.param(f, marks=[] if f in QUICK else [pytest.mark.full]) for f in FAMILIES]


@functools.cache
def original(family):
    """A model in which no two channels have the same weights, and no tensor those of a fresh one."""
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config(**settings(TINY))).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def ids(batch=2, length=33):
    return torch.randint(3, TINY.vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def converted(family):
    return to_mixers(copy.deepcopy(original(family)))


@pytest.mark.parametrize("family", families())
@torch.no_grad()
def test_mixers_compute_what_the_layers_did(family):
    model, mixed, tokens = original(family), converted(family), ids()
    assert any(isinstance(layer, MemoryMixer) for layer in mixed.modules())
    mask = torch.ones_like(tokens)
    mask[0, :6] = 0
    kinds = ("past_key_values", "cache_params")
    outputs = []
    for each in (model, mixed):
        padded = each(tokens, attention_mask=mask).logits[mask.bool()]
        first = each(tokens[:, :9], use_cache=True, attention_mask=mask[:, :9])
        cache = {name: first[name] for name in kinds if name in first}
        more = each(tokens[:, 9:20], use_cache=True, attention_mask=mask[:, :20], **cache)
        steps = [
            each(tokens[:, t : t + 1], use_cache=True, attention_mask=mask[:, : t + 1], **cache).logits
            for t in range(20, 24)
        ]
        outputs.append([padded, more.logits, torch.cat(steps, 1)])
    for expected, found in zip(*outputs):
        assert error(expected, found) < FLOAT32_OUTPUTS
    for search in ({}, {"num_beams": 2}):
        call = {"attention_mask": mask[:, :12], **GREEDY, **search}
        assert torch.equal(model.generate(tokens[:, :12], **call), mixed.generate(tokens[:, :12], **call))


@pytest.mark.parametrize("family", families())
def test_mixers_are_saved_as_the_layers(family, tmp_path):
    model, mixed = original(family), converted(family)
    expected, found = model.state_dict(), mixed.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(x, found[name]) for name, x in expected.items())
    mixed.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened) is type(model)
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, opened(ids()).logits)

    # weights are loaded under the same names
    other = {name: 1.1 * x for name, x in expected.items()}
    mixed.load_state_dict(other)
    assert all(torch.equal(x, other[name]) for name, x in mixed.state_dict().items())
    del other[next(name for name in other if name.endswith("A_log"))]
    with pytest.raises(RuntimeError, match="Missing key"):
        mixed.load_state_dict(other)


@pytest.mark.parametrize("family", families())
def test_gradients_of_mixers(family):
    """By transformers' names: those of the tensors whose rows are another order here as well."""
    gradients = []
    for model in (copy.deepcopy(original(family)).train(), converted(family).train()):
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
        gradients.append(model.state_dict())
    scale = max(g.abs().max() for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() / scale < FLOAT32_OUTPUTS, name


@torch.no_grad()
def test_groups_of_mixers_have_norms_of_their_own():
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 4,
        "state_size": 6,
        "num_hidden_layers": 2,
    }
    model = Mamba2ForCausalLM(Mamba2Config(**sizes, vocab_size=100, use_conv_bias=False)).eval()
    for p in model.parameters():
        p += 0.3 * torch.randn_like(p)
    mixed = to_mixers(copy.deepcopy(model))
    assert error(model(ids()).logits, mixed(ids()).logits) < FLOAT32_OUTPUTS
    assert torch.equal(model.generate(ids(), **GREEDY), mixed.generate(ids(), **GREEDY))
    assert all(torch.equal(x, mixed.state_dict()[name]) for name, x in model.state_dict().items())


@torch.no_grad()
def test_the_mixer_runs_alone_and_says_what_it_is():
    model, mixed = original("qwen3-next"), converted("qwen3-next")
    layer, x = model.model.layers[0].linear_attn, torch.randn(2, 9, 32)
    mixer = mixed.model.layers[0].linear_attn.mixer
    assert mixer.problem == ttr.catalogue["gated-deltanet"].problem
    y, state = mixer(x[:, :5], return_state=True)
    assert error(layer(x), torch.cat([y, mixer(x[:, 5:], state)], 1)) < FLOAT32_OUTPUTS


@torch.no_grad()
def test_sequences_packed_for_mixers():
    mixed, tokens, bounds = converted("qwen3-next"), ids(1), torch.tensor([0, 5, 6, 33], dtype=torch.int32)
    parts = [slice(*ends) for ends in pairwise(bounds.tolist())]
    positions = torch.cat([torch.arange(p.stop - p.start) for p in parts])[None]
    ends = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
    found = mixed(tokens, position_ids=positions, use_cache=False, **ends).logits
    expected = torch.cat([original("qwen3-next")(tokens[:, part]).logits for part in parts], 1)
    assert error(expected, found) < FLOAT32_OUTPUTS


@torch.no_grad()
def test_sequences_numbered_for_mixers():
    """As collators of transformers number them; Bamba hands the numbers on to its layers."""
    mixed, tokens, parts = converted("bamba"), ids(1), [slice(0, 5), slice(5, 33)]
    positions = torch.cat([torch.arange(p.stop - p.start) for p in parts])[None]
    numbers = (torch.arange(33) >= 5).int()[None]
    found = mixed(tokens, position_ids=positions, seq_idx=numbers, use_cache=False).logits
    expected = torch.cat([original("bamba")(tokens[:, part]).logits for part in parts], 1)
    assert error(expected, found) < FLOAT32_OUTPUTS


def test_dtypes_and_frozen_weights_stay_in_mixers():
    model = copy.deepcopy(original("kimi-linear")).bfloat16()
    rates = [layer for layer in model.modules() if hasattr(layer, "A_log")]
    for layer in rates:
        layer.float()
    model.requires_grad_(False)
    mixed = to_mixers(copy.deepcopy(model))
    dtypes = {name: x.dtype for name, x in model.state_dict().items()}
    assert {name: x.dtype for name, x in mixed.state_dict().items()} == dtypes
    assert not any(p.requires_grad for p in mixed.parameters())
    trained = converted("kimi-linear")
    frozen = [name for name, p in trained.named_parameters() if not p.requires_grad]
    assert frozen == ["model.layers.0.self_attn.mixer.output.gated_rms_norm.bias"]
    partly = copy.deepcopy(original("qwen3.5"))
    for name, p in partly.named_parameters():
        p.requires_grad_(not name.endswith("in_proj_qkv.weight"))
    frozen = [name for name, p in to_mixers(partly).named_parameters() if not p.requires_grad]
    assert frozen == [f"model.layers.0.linear_attn.mixer.{each}_proj.weight" for each in "qkv"]


@torch.no_grad()
def test_accelerated_models_become_mixers_too():
    model, tokens = original("qwen3.5"), ids()
    mixed = to_mixers(accelerate(copy.deepcopy(model)))
    assert torch.equal(model.generate(tokens, **GREEDY), mixed.generate(tokens, **GREEDY))
    mixed = accelerate(restore(mixed))
    assert torch.equal(model.generate(tokens, **GREEDY), mixed.generate(tokens, **GREEDY))


@torch.no_grad()
def test_caches_of_fixed_length():
    """A state has one; keys and values beside it must not, since the first layer says how long masks are."""
    static = GREEDY | {"cache_implementation": "static"}
    with pytest.raises(ValueError, match="Give converted models a DynamicCache"):
        converted("kimi-linear").generate(ids(), **static)
    found = converted("mamba2").generate(ids(), **static)
    assert torch.equal(original("mamba2").generate(ids(), **static), found)


def test_a_copy_is_of_its_own():
    mixed = converted("mamba2")
    before = copy.deepcopy(mixed.state_dict())
    again = copy.deepcopy(mixed)
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    assert all(torch.equal(x, before[name]) for name, x in mixed.state_dict().items())
    assert not any(x.any() for x in again.state_dict().values())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"use_bias": True}, "Layer 0 has biases in its projections"),
        ({"time_step_limit": (0.0, 0.1)}, r"Layer 0 clamps its time steps to \[0.0, 0.1\]"),
        ({"time_step_limit": (0.01, float("inf"))}, r"Layer 0 clamps its time steps to \[0.01, inf\]"),
        ({"hidden_act": "gelu"}, "Layer 0 has the activation 'gelu' behind its convolution"),
    ],
)
def test_layers_that_no_mixer_can_be(change, words):
    sizes = {"hidden_size": 16, "num_heads": 4, "head_dim": 8, "n_groups": 1, "num_hidden_layers": 2}
    model = Mamba2ForCausalLM(Mamba2Config(**sizes, vocab_size=11, **change))
    with pytest.raises(ValueError, match=words):
        to_mixers(model)
    assert not any(isinstance(layer, MemoryMixer) for layer in model.modules())


def test_layers_with_adapters_are_refused():
    model = copy.deepcopy(original("qwen3-next"))
    layer = model.model.layers[0].linear_attn
    layer.out_proj = torch.nn.Sequential(layer.out_proj)
    with pytest.raises(ValueError, match="Layer 0 has or lacks out_proj.0.weight, out_proj.weight.*adapters"):
        to_mixers(model)


def test_adapters_of_mixers_keep_the_names_of_the_mixer():
    mixed = converted("qwen3-next")
    mixer, before = mixed.model.layers[0].linear_attn.mixer, set(mixed.state_dict())
    mixer.q_proj = torch.nn.Sequential(mixer.q_proj)  # as adapters rename what they wrap
    tensors = {name: 1.1 * x for name, x in mixed.state_dict().items()}
    assert "model.layers.0.linear_attn.mixer.q_proj.0.weight" in tensors
    mixed.load_state_dict(tensors)
    assert all(torch.equal(x, tensors[name]) for name, x in mixed.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        mixed.load_state_dict(converted("qwen3-next").state_dict())
    mixer.q_proj = mixer.q_proj[0]
    assert set(mixed.state_dict()) == before


def test_models_without_such_layers_are_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=11)
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM has no recurrent layers that a Mixer can be"):
        to_mixers(model)


def test_mixers_have_weights_of_their_own():
    """In place, the model keeps no second copy of a tensor; a change of one row changes no other."""
    model = converted("qwen3.5")
    mixer = next(layer.mixer for layer in model.modules() if isinstance(layer, MemoryMixer))
    places = [p.untyped_storage().data_ptr() for p in mixer.parameters()]
    assert len(set(places)) == len(places)
