"""Columns taken back from a cache are as if they had never been read, and assisted decoding, which does that
all the time, is greedy decoding."""

import copy
import dataclasses

import pytest
import torch

import ttr
from tests.decoders import HYBRID, VOCABULARY, assert_close, padded, tiny, tokens
from ttr.models import TTRCache
from ttr.models.modeling import CACHE
from ttr.weights.window import Window

SLIDING = dataclasses.replace(ttr.catalogue["sliding-window-attention"].problem, weights=Window(3))
KINDS = {
    "pairs": "softmax-attention",
    "decaying pairs": "forgetting-attention",
    "window": (SLIDING,),
    "transported pairs": "path-attention",
    "matrix": "gated-deltanet",
    "convolutions": "mamba2",
    "token shift": "rwkv7",
    "levels": "log-linear-attention",
    "network": "ttt-linear",
    "hybrid": ("gated-deltanet", SLIDING, "softmax-attention", "ttt-linear"),
}
PAIRS = ("pairs", "decaying pairs")


def recording(layers):
    cache = TTRCache(layers)
    cache.activate_past_recording()
    return cache


@pytest.mark.parametrize("kind", KINDS)
def test_removed_columns_have_never_been_read(kind):
    model, ids, other = tiny(KINDS[kind]), tokens(2, 9), tokens(2, 3)
    with torch.no_grad():
        cache = recording(len(model.model.layers))
        model(ids[:, :4], past_key_values=cache)
        cache.crop(-1)
        model(ids[:, 3:6], past_key_values=cache)
        cache.crop(0)
        for t in range(6, 9):
            model(ids[:, t : t + 1], past_key_values=cache)
        model(other, past_key_values=cache)
        cache.crop(-3)  # removes a whole call, then part of a call of one token each, then nothing
        cache.crop(8)
        cache.crop(0)
        assert cache.get_seq_length() == 8
        wanted = model(torch.cat([ids[:, :8], other], dim=1)).logits[:, 8:]
        stepped = copy.deepcopy(cache)
        assert_close(model(other, past_key_values=cache).logits, wanted)
        steps = [model(other[:, t : t + 1], past_key_values=stepped).logits for t in range(3)]
        assert_close(torch.cat(steps, dim=1), wanted)


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_are_dropped_without_a_recording(kind):
    model, ids = tiny(KINDS[kind]), tokens(2, 7)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        cache.crop(-3)
        assert_close(model(ids[:, 4:], past_key_values=cache).logits, model(ids).logits[:, 4:])
        assert cache.layers[0].recorded is None


@pytest.mark.parametrize("kind", KINDS)
def test_rows_move_between_a_crop_and_the_next_call(kind):
    model, ids, rows = tiny(KINDS[kind]), tokens(2, 6), torch.tensor([1, 1, 0])
    with torch.no_grad():
        cache = recording(len(model.model.layers))
        model(ids[:, :2], past_key_values=cache)
        cache.crop(0)
        model(ids, past_key_values=cache)
        cache.crop(-3)
        cache.batch_select_indices(rows)
        wanted = model(torch.cat([ids[:, :2], ids], dim=1)[rows]).logits[:, 5:]
        assert_close(model(ids[rows, 3:], past_key_values=cache).logits, wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_removed_with_its_columns(side):
    model, rows, following = tiny(), [tokens(5), tokens(2)], tokens(2, 2)
    ids, mask = padded(rows, side)
    with torch.no_grad():
        cache = recording(len(HYBRID))
        model(following, past_key_values=cache)
        model(ids, attention_mask=mask, past_key_values=cache)
        cache.crop(-2)
        logits = model(following, past_key_values=cache).logits
        for i in range(2):
            kept = ids[i, :3][mask[i, :3].bool()]
            alone = torch.cat([following[i], kept, following[i]])[None]
            assert_close(logits[i], model(alone).logits[0, -2:])


def test_pairs_lose_columns_without_padding_only():
    model, (ids, mask), new = tiny("softmax-attention"), padded([tokens(4), tokens(2)], "left"), tokens(2, 1)
    with torch.no_grad():
        cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
        wanted = copy.deepcopy(cache)
        model(new, past_key_values=cache)
        cache.crop(-1)
        assert_close(
            model(new, past_key_values=copy.deepcopy(cache)).logits, model(new, past_key_values=wanted).logits
        )
        with pytest.raises(ValueError, match="Layer 0: The columns to remove hold padding"):
            cache.crop(-3)
        cache.crop(-2)
        alone = [model(torch.cat([ids[0, :2], new[0]])[None]).logits, model(new[1:]).logits]
        logits = model(new, past_key_values=cache).logits
        for i in range(2):
            assert_close(logits[i, -1], alone[i][0, -1])


@pytest.mark.parametrize("kind", PAIRS)
def test_a_recording_takes_padding_out_of_pairs(kind):
    model, (ids, mask), new = tiny(KINDS[kind]), padded([tokens(5), tokens(3)], "right"), tokens(2, 2)
    with torch.no_grad():
        cache = recording(1)
        model(new, past_key_values=cache)
        model(ids, attention_mask=mask, past_key_values=cache)
        model(new, past_key_values=cache)
        with pytest.raises(ValueError, match="begin before a call with padding"):
            copy.deepcopy(cache).crop(-8)
        cache.crop(-3)  # columns without padding, then one of which a row has none
        logits = model(new, past_key_values=cache).logits
        for i in range(2):
            alone = torch.cat([new[i], ids[i, :4][mask[i, :4].bool()], new[i]])[None]
            assert_close(logits[i], model(alone).logits[0, -2:])


def test_assistants_may_draw_the_padding_token():
    """Which generate takes for padding in what an assistant has read."""
    model, assistant = tiny("gated-deltanet"), tiny(("gated-deltanet", "softmax-attention-qknorm"))
    with torch.no_grad():
        assistant.lm_head.weight[0] = assistant.lm_head.weight.sum(0)  # draws 0 now and then
    for seed in range(4):
        torch.manual_seed(seed)
        call = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
        ids = torch.randint(1, VOCABULARY, (1, 6))
        assert torch.equal(
            model.generate(ids, assistant_model=assistant, **call), model.generate(ids, **call)
        )


@pytest.mark.parametrize("kind", ["pairs", "hybrid"])
def test_sequences_packed_in_a_row_are_not_cropped(kind):
    model, bounds, ids = tiny(KINDS[kind]), torch.tensor([0, 2, 5]), tokens(1, 5)
    with torch.no_grad():
        cache = recording(len(model.model.layers))
        model(ids, cu_seqlens=bounds, past_key_values=cache)
        before = copy.deepcopy(cache)
        with pytest.raises(ValueError, match="Layer 0: The columns to remove hold padding or packed"):
            cache.crop(-1)
        step = tokens(2, 1)
        logits = model(step, past_key_values=cache).logits
        cache.crop(-1)
        for again in (cache, before):
            assert_close(model(step, past_key_values=again).logits, logits)


def test_a_refused_crop_changes_no_layer():
    model, ids = tiny(("softmax-attention", "gated-deltanet")), tokens(1, 5)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        for remove, words in (
            (-1, "Layer 1: This memory does not store its pairs separately.*activate_past_recording"),
            (-5, "has read 4 columns and cannot remove 5"),
        ):
            with pytest.raises(ValueError, match=words):
                cache.crop(remove)
        cache.crop(9)  # keeps more than there is
        assert_close(model(ids[:, 4:], past_key_values=cache).logits, model(ids).logits[:, 4:])


def test_a_crop_keeps_the_graph():
    model, ids = tiny(), tokens(2, 6)
    cache, gradients = recording(len(HYBRID)), []
    model(ids[:, :2], past_key_values=cache)
    cache.crop(0)
    model(ids[:, 2:5], past_key_values=cache)
    cache.crop(-1)
    kept = copy.deepcopy(cache)
    for loss in (
        model(ids[:, 4:], past_key_values=kept).logits.square().sum(),
        model(ids).logits[:, 4:].square().sum(),
    ):
        model.zero_grad()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[1].items():
        assert_close(gradients[0][name], gradient)


@pytest.mark.parametrize(
    ("kind", "padding"), [("pairs", 2), ("window", 0), ("matrix", 2), ("network", 0), ("hybrid", 2)]
)
def test_assisted_decoding_is_greedy_decoding(kind, padding, monkeypatch):
    model, assistant, removed = tiny(KINDS[kind]), tiny(KINDS[kind]), []
    assistant.load_state_dict(model.state_dict())
    with torch.no_grad():  # it is right more often than not
        assistant.lm_head.weight.add_(0.3 * torch.randn_like(assistant.lm_head.weight))
    crop = TTRCache.crop

    def counted(cache, tokens_to_remove):
        before = cache.get_seq_length()
        crop(cache, tokens_to_remove)
        removed.append(before - cache.get_seq_length())

    monkeypatch.setattr(TTRCache, "crop", counted)
    call = {
        "inputs": torch.tensor([[7, 7, 1, 2, 3, 4, 1, 2, 3, 4, 5, 1, 2]]),
        "attention_mask": torch.tensor([[0] * padding + [1] * (13 - padding)]),
        "max_new_tokens": 12,
        "eos_token_id": 99,  # transformers 5.12 needs one
        "do_sample": False,
    }
    wanted = model.generate(**call)
    cache = TTRCache(len(model.model.layers))
    for how in (
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": assistant},
        {"assistant_model": assistant, CACHE: cache},
    ):
        # transformers 5.12 goes on to the end of the last candidates
        assert torch.equal(model.generate(**call, **how)[:, : wanted.shape[1]], wanted)
    assert max(removed) > 0
    with torch.no_grad():
        model(wanted[:, -1:], past_key_values=cache)
    assert all(layer.recorded is None for layer in cache.layers)  # only while candidates are taken back


def test_only_a_recording_keeps_the_past():
    model, ids = tiny(), tokens(1, 4)
    with torch.no_grad():
        cache = model.generate(ids, max_new_tokens=4, return_dict_in_generate=True)[CACHE]
        assert all(layer.recorded is None and layer.owned for layer in cache.layers)
        wanted = copy.deepcopy(cache)
        cache.activate_past_recording()
        model(ids[:, :1], past_key_values=cache)
        cache.crop(-1)
        assert_close(
            model(ids[:, 1:], past_key_values=cache).logits, model(ids[:, 1:], past_key_values=wanted).logits
        )
        model(ids[:, :1], past_key_values=cache)
        assert all(layer.recorded is not None for layer in cache.layers)
        for layer in cache.layers:
            layer.record_past = False
        model(ids[:, :1], past_key_values=cache)
        assert all(layer.recorded is None for layer in cache.layers)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_recording_does_not_hold_pairs_twice(kind):
    model, ids = tiny(KINDS[kind]), tokens(2, 7)
    with torch.no_grad():
        cache = recording(1)
        model(ids, past_key_values=cache)
        assert cache.layers[0].recorded is None
        cache.crop(-3)
        assert_close(model(ids[:, 4:], past_key_values=cache).logits, model(ids).logits[:, 4:])
