"""What transformers' generic code asks of a cache and of a model that generates: every verb is answered, or
refused in a sentence."""

import dataclasses

import pytest
import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    StaticCache,
)

from tests.decoders import assert_close, padded, tiny, tokens
from ttr.models import TTRCache, arguments
from ttr.models.cache import MemoryLayer
from ttr.models.modeling import CACHE

KEYS_AND_VALUES = "not keys and values|non-LinearAttention|non linear attention|has no indexer"
ROWS = torch.tensor([1, 0, 1])

# a call of every public name of transformers' cache, and what it gives; or the sentence that refuses it
CACHE_VERBS = {
    "activate_past_recording": ((), None),
    "batch_repeat_interleave": ((2,), None),
    "batch_select_indices": ((ROWS,), None),
    "batch_size": (None, 2),
    "crop": ((0,), None),
    "early_initialization": (
        (2, 2, 8, torch.float32, torch.device("cpu")),
        None if hasattr(CacheLayerMixin, "supports_early_init") else KEYS_AND_VALUES,
    ),
    "get_conv_state": ((0,), KEYS_AND_VALUES),
    "get_mask_sizes": ((3, 1), (8, 0)),
    "get_max_cache_shape": ((), -1),
    "get_max_length": ((), -1),
    "get_query_offset": ((), 5),
    "get_recurrent_state": ((0,), KEYS_AND_VALUES),
    "get_seq_length": ((1,), 5),
    "has_previous_state": ((1,), True),
    "is_compileable": (None, False),
    "is_croppable": (None, True),
    "is_dummy": (None, [False] * 3),
    "is_initialized": (None, True),
    "is_linear": (None, [False] * 3),
    "is_recording_past": ((0,), False),
    "is_sliding": (None, [False, True, False]),
    "max_batch_size": (None, 2),
    "max_cache_len": (None, -1),
    "offload": ((0,), None),
    "prefetch": ((1,), None),
    "reorder_cache": ((ROWS,), None),
    "reset": ((), None),
    "update": ((None, None, 0), KEYS_AND_VALUES),
    "update_conv_state": ((None, 0), KEYS_AND_VALUES),
    "update_indexer": ((None, 0), KEYS_AND_VALUES),
    "update_recurrent_state": ((None, 0), KEYS_AND_VALUES),
}
LAYER_VERBS = {
    "activate_past_recording": ((), None),
    "batch_repeat_interleave": ((2,), None),
    "batch_select_indices": ((ROWS,), None),
    "crop": ((0,), None),
    "get_mask_sizes": ((3,), (8, 0)),
    "get_max_cache_shape": ((), -1),
    "get_max_length": ((), -1),
    "get_seq_length": ((), 5),
    "is_compileable": (None, False),
    "is_croppable": (None, True),
    "is_sliding": (None, False),
    "layer_type": (None, None),
    "lazy_initialization": ((None, None), KEYS_AND_VALUES),
    "offload": ((), None),
    "prefetch": ((), None),
    "reorder_cache": ((ROWS,), None),
    "reset": ((), None),
    "supports_early_init": (None, False),
    "update": ((None, None), KEYS_AND_VALUES),
    # of layers with a state of a convolution, by which Cache knows them
    "update_conv_state": None,
    "update_recurrent_state": None,
}


def read_cache():
    with torch.no_grad():
        return tiny()(tokens(2, 5), use_cache=True).past_key_values


def public(*classes):
    return {name for kind in classes for name in dir(kind) if not name.startswith("_")}


def test_every_verb_of_a_cache_is_known():
    assert public(Cache) <= set(CACHE_VERBS)
    layers = CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin
    assert public(*layers) <= set(LAYER_VERBS)


@pytest.mark.parametrize("of", ["cache", "layer"])
def test_every_verb_is_answered_or_refused(of):
    for name, verb in (CACHE_VERBS if of == "cache" else LAYER_VERBS).items():
        if verb is None or not hasattr(Cache if of == "cache" else DynamicSlidingWindowLayer, name):
            continue
        asked = read_cache() if of == "cache" else read_cache().layers[0]
        call, wanted = verb
        if isinstance(wanted, str):
            with pytest.raises(ValueError, match=wanted):
                getattr(asked, name)(*call)
            continue
        got = getattr(asked, name)
        assert (got if call is None else got(*call)) == wanted, name


def test_an_empty_cache_answers_too():
    cache = TTRCache(3)
    assert len(cache) == 3 and isinstance(cache.layers[0], CacheLayerMixin)
    assert (cache.batch_size, cache.get_seq_length(), cache.max_cache_len) == (-1, 0, -1)
    assert not cache.has_previous_state() and not cache.is_initialized and not any(cache.is_sliding)
    for verb, call in {"crop": (0,), "reorder_cache": (ROWS,), "offload": (0,), "prefetch": (0,)}.items():
        getattr(cache, verb)(*call)
    assert cache.states() == [None] * 3


def test_states_can_leave_their_device_and_come_back():
    model, ids = tiny(), tokens(2, 5)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        for layer in range(3):
            cache.offload(layer, only_non_sliding=False)
            cache.prefetch(layer)
        assert_close(model(ids[:, 4:], past_key_values=cache).logits, model(ids).logits[:, 4:])
        assert MemoryLayer().offload() is MemoryLayer().prefetch() is None


def test_limits_are_told():
    model = tiny(("cosformer", "softmax-attention"))
    with torch.no_grad():
        cache = model(tokens(1, 4), use_cache=True).past_key_values
    horizon = model.model.layers[0].mixer.problem.weights.horizon
    assert [layer.get_max_length() for layer in cache.layers] == [horizon, -1]
    cache.layers[1].state = model.model.layers[1].mixer.initial_state(1, capacity=6)
    assert cache.layers[1].get_max_length() == 6
    cache.layers[0].state = dataclasses.replace(cache.layers[0].state, capacity=3)
    assert cache.layers[0].get_max_length() == 3 < horizon


# ---------------------------------------------------------------------------------------- generate
@pytest.mark.parametrize("chunk", [1, 3, 20])
def test_a_prompt_is_read_in_chunks(chunk):
    model, (ids, mask) = tiny(), padded([tokens(7), tokens(4)], "left")
    call = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(ids, prefill_chunk_size=chunk, **call), model.generate(ids, **call))


@pytest.mark.parametrize("kind", ["static", "offloaded", "offloaded_static", "quantized"])
def test_caches_of_keys_and_values_are_refused(kind):
    model, ids = tiny(), tokens(1, 4)
    with pytest.raises(ValueError, match=f"cache_implementation='{kind}' is for keys and values"):
        model.generate(ids, max_new_tokens=2, cache_implementation=kind)
    wanted = model.generate(ids, max_new_tokens=2, do_sample=False)
    for call in ({"cache_implementation": "dynamic"}, {"use_cache": False}, {CACHE: TTRCache(3)}):
        assert torch.equal(model.generate(ids, max_new_tokens=2, do_sample=False, **call), wanted)


def test_caches_of_transformers_are_refused():
    model = tiny()
    for cache in (DynamicCache(), StaticCache(config=model.config, max_cache_len=8)):
        with pytest.raises(ValueError, match=f"must be a ttr.models.TTRCache, got {type(cache).__name__}"):
            model.generate(tokens(1, 4), max_new_tokens=2, **{CACHE: cache})


@pytest.mark.parametrize(
    "packed",
    [
        {"cu_seqlens": torch.tensor([0, 2, 5])},
        {"seq_idx": torch.tensor([[0, 0, 1, 1, 1]])},
        {"attention_mask": torch.tensor([[1, 1, 2, 2, 2]])},
        {"position_ids": torch.tensor([[0, 1, 0, 1, 2]])},
    ],
    ids=lambda packed: "-".join(packed),
)
def test_packed_prompts_are_refused(packed):
    with pytest.raises(ValueError, match=f"several are packed in a row by {next(iter(packed))}. Pad them"):
        tiny().generate(tokens(1, 5), max_new_tokens=2, **packed)


def test_positions_of_one_sequence_per_row_are_taken():
    model, (ids, mask) = tiny(), padded([tokens(5), tokens(3)], "left")
    wanted = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    call = {"attention_mask": mask, "position_ids": positions, "max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(ids, **call), wanted)


def test_implementations_of_attention_are_refused():
    with pytest.raises(ValueError, match="attn_implementation='sdpa' is for attention layers.*Leave it out"):
        type(tiny())._from_config(tiny().config, attn_implementation="sdpa")


def test_continuous_batching_is_refused_at_the_call():
    with pytest.raises(ValueError, match="Continuous batching pages keys and values.*padded batch"):
        tiny().generate_batch([[1, 2, 3], [4, 5]], max_new_tokens=2)


# ---------------------------------------------------------------------------------------- losses
def test_the_loss_of_shifted_labels_needs_no_labels():
    model, ids = tiny(), tokens(2, 6)
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    assert_close(model(ids, shift_labels=shifted).loss, model(ids, labels=ids).loss)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 3, 4])])
def test_the_loss_is_that_of_the_columns_with_logits(keep):
    model, ids = tiny(), tokens(2, 6)
    columns = torch.arange(6)[-keep:] if isinstance(keep, int) else keep
    shifted = torch.full_like(ids, -100)
    shifted[:, columns] = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)[:, columns]
    wanted = model(ids, shift_labels=shifted).loss
    assert_close(model(ids, labels=ids, logits_to_keep=keep).loss.nan_to_num(7), wanted.nan_to_num(7))


def test_attention_maps_are_not_promised(monkeypatch):
    told = []
    monkeypatch.setattr(arguments.logger, "warning_once", told.append)
    assert tiny()(tokens(1, 3), output_attentions=True).attentions is None
    assert len(told) == 1 and "no attention maps" in told[0]
