"""Memories in place of the attention layers of a transformers decoder: exact where the memory is the same
attention, as any decoder otherwise, and distilled."""

import copy

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import ttr
from tests.decoders import assert_close, padded, tokens
from ttr.integrations.transformers.conversion import MemoryAttention, convert, distill, from_pretrained
from ttr.laws.tolerances import FLOAT32

GREEDY = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
MEMORIES = ("gated-deltanet", "mamba2", "ttt-linear", "sliding-window-attention")


def decoder(config=LlamaConfig, model=LlamaForCausalLM, layers=3, scale=0.2, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {
        "vocab_size": 11,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "initializer_range": scale,
    }
    return model(config(**sizes)).to(dtype).eval()


def test_the_same_attention_gives_the_same_model():
    original, ids = decoder(), tokens(2, 9)
    converted = ttr.convert(copy.deepcopy(original), to="softmax-attention")
    assert sum(isinstance(layer, MemoryAttention) for layer in converted.modules()) == 3
    with torch.no_grad():
        # transformers rotates by float32 angles
        assert_close(converted(ids).logits, original(ids).logits, FLOAT32)
    assert torch.equal(converted.generate(ids, **GREEDY), original.generate(ids, **GREEDY))


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
    ],
)
def test_what_does_not_fit_changes_nothing(layers, to, message):
    model = decoder()
    before = str(model), model.config.to_dict()
    with pytest.raises((ValueError, KeyError), match=message):
        convert(model, layers, to=to)
    assert (str(model), model.config.to_dict()) == before


def test_a_model_without_attention_is_refused():
    model = MambaForCausalLM(MambaConfig(vocab_size=11, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ValueError, match="Layer 0 has no attention"):
        convert(model, to="gla")
    with pytest.raises(ValueError, match="no converted layers"):
        distill(model, model, [tokens(1, 4)], steps=1)
    with pytest.raises(ValueError, match="no list of layers"):
        convert(torch.nn.Linear(2, 2), to="gla")


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
    losses = distill(
        student, teacher, iter(batches), steps=200, lr=3e-3, on_step=lambda *step: seen.append(step)
    )
    assert seen == list(enumerate(losses, start=1)) and len(losses) == 200
    fifths = torch.tensor(losses).view(5, 40).mean(1)
    assert (fifths.diff() < 0).all() and fifths[-1] < 0.75
    assert surprise() < 0.8 * before
    assert all(torch.equal(p, dict(student.named_parameters())[name]) for name, p in untouched.items())


def test_distilling_the_same_attention_has_nothing_to_learn():
    teacher = decoder(layers=2)
    student = convert(copy.deepcopy(teacher), to="softmax-attention")
    ids, mask = padded([tokens(7), tokens(4)], "left")
    assert distill(student, teacher, [ids], steps=1)[0] < FLOAT32
    with pytest.raises(ValueError, match="batches is empty"):
        distill(student, teacher, [], steps=1)
