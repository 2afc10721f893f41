"""Memories in place of the attention layers of a transformers decoder: exact where the memory is the same
attention, as any decoder otherwise, and distilled."""

import copy
import dataclasses
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import ttr
from tests.decoders import assert_close, padded, tokens
from ttr.integrations.transformers.conversion import MemoryAttention, convert, from_pretrained
from ttr.integrations.transformers.distillation import distill, match_scales
from ttr.laws.tolerances import FLOAT32
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.qkv.token_shift import TokenShift

GREEDY = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SIZES |= {"vocab_size": 11, "intermediate_size": 48}
MEMORIES = ("gated-deltanet", "mamba2", "ttt-linear", "sliding-window-attention")


def decoder(config=LlamaConfig, model=LlamaForCausalLM, layers=3, scale=0.2, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": layers, "initializer_range": scale, "pad_token_id": 0}
    return model(config(**sizes)).to(dtype).eval()


def test_the_same_attention_gives_the_same_model():
    original, ids = decoder(), tokens(2, 9)
    converted = ttr.convert(copy.deepcopy(original), to="softmax-attention")
    assert sum(isinstance(layer, MemoryAttention) for layer in converted.modules()) == 3
    with torch.no_grad():
        # transformers rotates by float32 angles
        assert_close(converted(ids).logits, original(ids).logits, FLOAT32)
    assert torch.equal(converted.generate(ids, **GREEDY), original.generate(ids, **GREEDY))


@pytest.mark.parametrize("part", [ShortConvolution(silu=False), TokenShift()], ids=lambda part: part.name)
def test_a_new_part_leaves_what_the_projections_say(part):
    entry, original, ids = ttr.catalogue["softmax-attention"], decoder(), tokens(2, 9)
    memory = dataclasses.replace(entry, qkv=(part, *entry.qkv))
    with torch.no_grad():
        wanted, found = original(ids).logits, convert(copy.deepcopy(original), to=memory)(ids).logits
    assert_close(found, wanted, FLOAT32)


def test_a_wide_projection_repeats_every_group():
    attention = decoder().model.layers[0].self_attn
    mixer = MemoryAttention(attention, "mamba2", 0, 3).mixer  # takes one value for every head
    assert mixer.sizes.value_heads == 4
    for name in ("k_proj", "v_proj"):
        groups = getattr(attention, name).weight.unflatten(0, (2, 8))
        assert torch.equal(
            getattr(mixer, name).weight.unflatten(0, (2, 2, 8)), groups[:, None].expand(2, 2, 8, 32)
        )


@pytest.mark.parametrize("memory", MEMORIES)
def test_cached_tokens_are_those_of_the_sequence(memory):
    model, ids = convert(decoder(), (0, -1), to=memory), tokens(2, 9)
    assert [isinstance(block.self_attn, MemoryAttention) for block in model.model.layers] == [
        True,
        False,
        True,
    ]
    for search in ({}, {"num_beams": 3}):
        without = model.generate(ids, use_cache=False, **GREEDY, **search)
        assert torch.equal(model.generate(ids, **GREEDY, **search), without)
    with torch.no_grad():
        first = model(ids[:, :5], use_cache=True)
        rest = model(ids[:, 5:], past_key_values=first.past_key_values).logits
        assert_close(torch.cat([first.logits, rest], 1), model(ids).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_padding_and_other_sequences_do_not_leak(memory, side):
    model, rows = convert(decoder(), to=[memory, "gla", memory]), [tokens(7), tokens(4)]
    ids, mask = padded(rows, side)
    packed, positions = torch.cat(rows)[None], torch.cat([torch.arange(7), torch.arange(4)])[None]
    with torch.no_grad():
        logits, alone = model(ids, attention_mask=mask).logits, [model(row[None]).logits[0] for row in rows]
        for i, wanted in enumerate(alone):
            assert_close(logits[i][mask[i].bool()], wanted)
        assert_close(model(packed, position_ids=positions, use_cache=False).logits[0], torch.cat(alone))
    if side == "left":
        written = model.generate(ids, attention_mask=mask, **GREEDY)[:, 7:]
        alone = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in rows]
        wanted = [model.generate(**inputs, **GREEDY)[0, -6:] for inputs in alone]
        assert torch.equal(written, torch.stack(wanted))


def test_boundaries_separate_sequences_where_there_is_no_mask():
    layer, x = convert(decoder(), [0], to="gla").model.layers[0].self_attn, torch.randn(1, 9, 32).double()
    alone = torch.cat([layer(x[:, :5])[0], layer(x[:, 5:])[0]], 1)
    bounds = torch.tensor([0, 5, 9], dtype=torch.int32)
    assert_close(layer(x, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds)[0], alone)
    assert_close(layer(x, cu_seq_lens_q=bounds)[0], alone)
    assert_close(layer(x, position_ids=torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]]))[0], alone)


@pytest.mark.parametrize("memory", MEMORIES)
def test_candidates_are_taken_back(memory):
    model, ids = convert(decoder(), [0, 2], to=memory), tokens(1, 3).repeat(1, 4)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | GREEDY | {"max_new_tokens": 12}
    assert torch.equal(model.generate(**inputs, prompt_lookup_num_tokens=3), model.generate(**inputs))
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        model(ids[:, 4:9], past_key_values=cache)
        kept = [layer.recorded for layer in cache.layers if getattr(layer, "recorded", None)]
        assert all(recorded.real.shape == (1, 5) for recorded in kept)  # those of the last call alone
        cache.crop(-3)
        assert_close(model(ids[:, 6:], past_key_values=cache).logits, model(ids).logits[:, 6:])


def test_a_cache_of_fixed_length_is_refused():
    with pytest.raises(ValueError, match="DynamicCache"):
        convert(decoder(), [1], to="gla").generate(tokens(1, 4), cache_implementation="static", **GREEDY)


def test_tensors_that_are_missing_are_drawn_again(tmp_path):
    convert(decoder(), [1], to="gated-deltanet").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    saved = load_file(path)
    gone = {name for name in saved if ".mixer.gates." in name or ".mixer.qkv." in name}
    save_file({name: x for name, x in saved.items() if name not in gone}, path, {"format": "pt"})
    loaded, report = from_pretrained(tmp_path, output_loading_info=True)
    assert gone == set(report["missing_keys"]) and len(gone) > 3
    fresh = ttr.nn.Mixer(32, ttr.catalogue["gated-deltanet"], heads=4, key_heads=2, value_heads=2)
    for name, p in fresh.named_parameters():
        drawn = loaded.get_parameter(f"model.layers.1.self_attn.mixer.{name}")
        largest = p.abs().max()
        assert drawn.isfinite().all() and largest / 4 <= drawn.abs().max() < 4 * largest + 1


def test_a_converted_classifier_is_loaded_as_one(tmp_path):
    model = decoder(model=LlamaForSequenceClassification)
    convert(model, [1], to="gla").save_pretrained(tmp_path)
    loaded = pickle.loads(pickle.dumps(from_pretrained(tmp_path, dtype=torch.float64)))
    assert type(loaded) is LlamaForSequenceClassification
    ids = tokens(1, 5)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_converted_model_is_saved_and_loaded(tmp_path):
    entry = ttr.catalogue["gla"]
    model = convert(decoder(Qwen3Config, Qwen3ForCausalLM), [0], to=entry.problem)
    model = convert(model, [2, 1], to=["gated-deltanet", entry])
    model.save_pretrained(tmp_path)
    loaded, ids = from_pretrained(tmp_path, dtype=torch.float64), tokens(2, 9)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    decoder().save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="no converted layers"):
        from_pretrained(tmp_path / "plain")


@pytest.mark.parametrize(
    "layers, to, message",
    [
        ([3], "gla", "no layer 3"),
        ([0, 1], ["gla"], "names 1 memories for 2 layers"),
        (None, "gated-delta-net", "gated-deltanet"),
        ([1], "soft", "reads the ones after it"),
        ([1], 3, "got 3"),
    ],
)
def test_what_does_not_fit_changes_nothing(layers, to, message):
    model = decoder()
    before = str(model), model.config.to_dict()
    with pytest.raises((ValueError, KeyError), match=message):
        convert(model, layers, to=to)
    assert (str(model), model.config.to_dict()) == before


def test_a_layer_with_a_window_is_refused():
    config = MistralConfig(**SIZES, num_hidden_layers=1, sliding_window=4)
    with pytest.raises(ValueError, match="Layer 0 reads a window of 4"):
        convert(MistralForCausalLM(config), to="gla")


def test_a_model_without_attention_is_refused():
    model = MambaForCausalLM(MambaConfig(vocab_size=11, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ValueError, match="Layer 0 has no attention"):
        convert(model, to="gla")
    with pytest.raises(ValueError, match="no converted layers"):
        distill(model, model, [tokens(1, 4)], steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        distill(model, model, [tokens(1, 4)], steps=0)
    with pytest.raises(ValueError, match="no list of layers"):
        convert(torch.nn.Linear(2, 2), to="gla")


def test_outputs_begin_at_the_scale_of_the_teacher():
    """The first layer has another scale and sign, the second is frozen, and no scale helps the third."""
    teacher, ids = decoder(layers=3), tokens(2, 9)
    student = convert(copy.deepcopy(teacher), to="softmax-attention")
    first, frozen, none = (block.self_attn.mixer.o_proj.weight for block in student.model.layers)
    wanted = first.detach().clone()
    with torch.no_grad():
        first *= -7
        none *= 0
    frozen.requires_grad_(False)
    before = frozen.clone(), none.clone()
    match_scales(student, teacher, ids)
    assert_close(first, wanted, FLOAT32)
    assert torch.equal(frozen, before[0]) and torch.equal(none, before[1])


@pytest.mark.parametrize("memory", ["gated-deltanet", "linear-attention"])
def test_distillation_brings_the_outputs_near_the_teacher(memory):
    teacher = decoder(layers=2, scale=0.1, dtype=torch.float32)
    student, batches = convert(copy.deepcopy(teacher), to=memory), [tokens(4, 24) for _ in range(10)]
    untouched = {name: p.clone() for name, p in student.named_parameters() if "self_attn" not in name}

    def surprise():
        """How far the student's predictions are from the teacher's, in nats."""
        with torch.no_grad():
            a, b = (model(batches[0]).logits.log_softmax(-1) for model in (teacher, student))
            return (a.exp() * (a - b)).sum(-1).mean()

    before, seen = surprise(), []
    losses = distill(student, teacher, iter(batches), steps=200, on_step=lambda *step: seen.append(step))
    assert seen == list(enumerate(losses, start=1)) and len(losses) == 200
    fifths = torch.tensor(losses).view(5, 40).mean(1)
    assert losses[0] <= 1 and (fifths.diff() < 0).all() and fifths[-1] < 0.1
    assert surprise() < 0.1 * before
    assert all(torch.equal(p, dict(student.named_parameters())[name]) for name, p in untouched.items())


def test_distilling_the_same_attention_has_nothing_to_learn():
    teacher = decoder(layers=2)
    student = convert(copy.deepcopy(teacher), to="softmax-attention")
    ids, mask = padded([tokens(7), tokens(4)], "left")
    assert distill(student, teacher, [ids], steps=1)[0] < FLOAT32
    with pytest.raises(ValueError, match="batches is empty"):
        distill(student, teacher, [], steps=1)
