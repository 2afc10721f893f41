"""A decoder whose layers have different heads and sizes: its mixers are those of these sizes, and it saves,
continues, generates and packs like any other."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import ttr
from tests.decoders import HYBRID, assert_close, padded, tiny, tokens
from ttr.models import TTRCache, TTRConfig
from ttr.nn import Mixer

GIVEN = {
    "num_heads": [2, 4, 2],
    "key_heads": [None, 2, None],
    "value_heads": [4, 2, None],
    "key_size": [6, None, 5],
    "value_size": [3, None, 5],
}
MIXERS = (
    {"heads": 2, "value_heads": 4, "key_size": 6, "value_size": 3},
    {"heads": 4, "key_heads": 2, "value_heads": 2},
    {"heads": 2, "key_size": 5, "value_size": 5},
)
"""The same sizes, layer by layer, for ``ttr.nn.Mixer``."""


def test_every_layer_has_its_sizes():
    model = tiny(**GIVEN)
    parameters = 2 * 11 * 16 + 16  # embeddings, head and the last norm
    for name, sizes, block in zip(HYBRID, MIXERS, model.model.layers, strict=True):
        alone = Mixer(16, ttr.catalogue[name], **sizes, layer=block.layer, layers=3)
        assert block.mixer.sizes == alone.sizes
        parameters += sum(p.numel() for p in alone.parameters()) + 2 * 16 + 3 * 16 * 24
    assert model.num_parameters() == parameters


def test_one_number_and_equal_numbers_are_the_same():
    one, each = (
        TTRConfig(num_hidden_layers=2, num_heads=heads, key_size=sizes)
        for heads, sizes in ((4, None), ((4, 4), [None, None]))
    )
    assert one.num_heads == each.num_heads == each.num_attention_heads == 4
    assert one == each and one.to_json_string() == each.to_json_string()


def test_sizes_survive_a_folder(tmp_path):
    config = TTRConfig(num_hidden_layers=3, layers=list(HYBRID), **GIVEN)
    assert json.loads(config.to_json_string())["key_heads"] == [None, 2, None]
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == config.to_diff_dict()
    assert {name: getattr(again, name) for name in GIVEN} == GIVEN
    assert TTRConfig(num_hidden_layers=2, num_attention_heads=(4, 2)).sizes(1)["heads"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_heads": [4]}, "num_heads gives 1 numbers, but num_hidden_layers is 2. Give one number per"),
        ({"num_attention_heads": [4, 2, 2]}, "num_heads gives 3 numbers"),
        ({"value_size": []}, "value_size gives 0 numbers"),
    ],
)
def test_wrong_numbers_of_sizes_are_a_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        TTRConfig(num_hidden_layers=2, **settings)
    config = TTRConfig(num_hidden_layers=2)
    for name, sizes in settings.items():
        setattr(config, name, sizes)
    with pytest.raises(ValueError, match=words):
        config.mixer(0)


@torch.no_grad()
def test_it_saves_continues_generates_and_packs(tmp_path):
    model, ids = tiny(**GIVEN), tokens(2, 9)
    expected = model(ids, use_cache=False).logits
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(again(ids, use_cache=False).logits, expected)

    cache = TTRCache(3)
    found = [again(ids[:, t : t + 1], past_key_values=cache).logits for t in range(9)]
    assert_close(torch.cat(found, 1), expected)
    with pytest.raises(ValueError, match="other memories or sizes"):
        tiny()(ids[:, :1], past_key_values=cache)

    rows = [ids[0, :4], ids[1, :7]]
    packed = again(torch.cat(rows)[None], cu_seqlens=torch.tensor([0, 4, 11])).logits
    wide, mask = padded(rows, "left")
    for row, alone, start, y in zip(rows, expected, (0, 4), again(wide, attention_mask=mask).logits):
        assert_close(packed[0, start : start + len(row)], alone[: len(row)])
        assert_close(y[-len(row) :], alone[: len(row)])

    written = again.generate(ids, max_new_tokens=4, do_sample=False, num_beams=1)
    for t in range(9, 13):
        assert torch.equal(written[:, t], again(written[:, :t]).logits[:, -1].argmax(-1))
