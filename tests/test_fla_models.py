"""Models of flash-linear-attention opened as ours: their logits, generation and weights, and what is
refused."""

import json
import shutil

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.fla_models import build, logits
from ttr.integrations import fla
from ttr.laws.tolerances import FLOAT32_OUTPUTS, FLOAT64, error

HEADS = {"num_heads": 2, "head_dim": 6}
GROUPED = {"num_heads": 6, "num_kv_heads": 2, "qkv_bias": True, "rope_theta": 100.0}
MESA = {"lambda_lower_bound": 0.5, "conv_size": 3, "max_cg_step_training": 3}
HYBRID = {"attn": GROUPED | {"layers": [1]}}
CASES = {
    "gated_deltanet": HEADS | {"num_v_heads": 4, "expand_v": 1.5},
    "gated_deltanet-plain": HEADS
    | {"use_gate": False, "use_short_conv": False, "allow_neg_eigval": True, "norm_eps": 0.01},
    "gated_deltanet-sigmoid": HEADS | {"output_gate_activation": "sigmoid", "conv_size": 3, "norm_eps": 0.1},
    "gated_deltanet-hybrid": HEADS
    | {"num_v_heads": 4, "expand_v": 1.5}
    | {"attn": [GROUPED | {"layers": [0]}, {"layers": [2], "num_heads": 3, "window_size": 5}]},
    "gated_deltanet-hybrid-alike": {"num_heads": 4, "head_dim": 6, "expand_v": 1.0}
    | {"attn": {"layers": [1], "num_heads": 4, "window_size": 5, "rope_theta": 100.0}},
    "kda": HEADS | {"num_v_heads": 4, "expand_v": 0.5, "allow_neg_eigval": True, "norm_eps": 0.1},
    "kda-plain": HEADS | {"use_short_conv": False, "tie_word_embeddings": True},
    "kda-hybrid": HEADS | HYBRID,
    "delta_net": {"num_heads": 3, "expand_k": 0.5, "use_gate": True, "allow_neg_eigval": True},
    "delta_net-plain": {"num_heads": 3, "use_short_conv": False, "fuse_norm": False},
    "delta_net-hybrid": {"num_heads": 2} | HYBRID,
    "gated_deltaproduct": HEADS | {"num_householder": 3, "use_forget_gate": True, "allow_neg_eigval": True},
    "gated_deltaproduct-plain": HEADS
    | {"num_householder": 2, "use_output_gate": False, "use_short_conv": False},
    "gated_deltaproduct-hybrid": HEADS | {"num_householder": 2} | HYBRID,
    "gla": {"num_heads": 2, "use_short_conv": True},
    "gla-unfused": {"num_heads": 2, "fuse_norm": False},
    "gla-plain": {"num_heads": 2, "use_output_gate": False},
    "gla-hybrid": {"num_heads": 2} | HYBRID,
    "retnet": {"num_heads": 4, "num_kv_heads": 2, "use_short_conv": True},
    "retnet-plain": {"num_heads": 2, "use_output_gate": False},
    "retnet-hybrid": {"num_heads": 2} | HYBRID,
    "linear_attn": {"num_heads": 4, "num_kv_heads": 2, "feature_map": "elu", "norm_feature_map": True},
    "linear_attn-plain": {"num_heads": 2, "feature_map": "identity", "expand_k": 0.5},
    "linear_attn-hybrid": {"num_heads": 4, "feature_map": "relu"} | HYBRID,
    "mesa_net": HEADS | {"use_output_gate": True, "norm_eps": 0.1} | MESA,
    "mesa_net-hybrid": HEADS | HYBRID | {"use_short_conv": False},
    "hgrn2": {"expand_ratio": 8},
    "hgrn2-heads": {"expand_ratio": None, "num_heads": 4, "hidden_ratio": 2, "intermediate_size": None},
    "transformer": {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True, "window_size": 7},
    "transformer-biased": {"num_heads": 3, "qkv_bias": True, "qk_norm": True, "rope_theta": 50.0},
    "forgetting_transformer": {"num_heads": 4, "num_kv_heads": 2, "use_output_gate": True},
    "forgetting_transformer-plain": {"num_heads": 2, "qkv_bias": True},
}
"""A model_type, and the settings of a tiny model of it."""

QUICK = ("gated_deltanet", "gated_deltanet-hybrid", "kda", "gla", "hgrn2", "mesa_net")


def cases():
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.full]) for name in CASES]


def saved(name, folder, **settings):
    model = build(name.partition("-")[0], **CASES[name] | settings)
    model.save_pretrained(folder)
    return model


def ids(batch=2, length=21):
    return torch.randint(1, 61, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def greedy(model, tokens, count):
    """The tokens that a model without a cache finds most likely."""
    for _ in range(count):
        tokens = torch.cat([tokens, logits(model, tokens)[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.mark.parametrize("name", cases())
@torch.no_grad()
def test_logits_tokens_and_weights_are_those_of_fla(name, tmp_path):
    original = saved(name, tmp_path / "fla")
    model, tokens = fla.from_pretrained(tmp_path / "fla"), ids()
    expected = logits(original, tokens)
    assert model.dtype == torch.float64 and not model.training
    assert error(expected, model(tokens).logits) < FLOAT64
    assert error(expected, fla.from_pretrained(tmp_path / "fla", dtype=torch.float32)(tokens).logits) < (
        FLOAT32_OUTPUTS
    )

    # token by token
    state, found = None, []
    for t in range(tokens.shape[1]):
        output = model(tokens[:, t : t + 1], past_key_values=state, use_cache=True)
        state = output.past_key_values
        found.append(output.logits)
    assert error(expected, torch.cat(found, 1)) < FLOAT64

    # padded
    wide, mask = torch.cat([torch.zeros(2, 3, dtype=torch.long), tokens], 1), torch.ones(2, 24).long()
    mask[:, :3] = 0
    assert error(expected, model(wide, attention_mask=mask).logits[:, 3:]) < FLOAT64

    # packed
    packed = model(torch.cat(tuple(tokens))[None, 4:], cu_seqlens=torch.tensor([0, 17, 38])).logits[0]
    assert error(logits(original, tokens[:1, 4:])[0], packed[:17]) < FLOAT64
    assert error(expected[1], packed[17:]) < FLOAT64

    # generated, from the folder of ttr's that it is saved as
    model.save_pretrained(tmp_path / "ttr")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ttr", dtype=torch.float64)
    out = again.generate(tokens[:, :6], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(out, greedy(original, tokens[:, :6], 5))

    # and back to fla
    fla.save_pretrained(again, tmp_path / "back")
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("fla", "back"))
    assert before.keys() == after.keys()
    for key, x in before.items():
        if key == "model.lower_bounds":  # before a softmax, which leaves out what all of them share
            assert error(x - x[:1], after[key] - after[key][:1]) < FLOAT64
        else:
            assert torch.equal(x, after[key]), key
    assert error(expected, fla.from_pretrained(tmp_path / "back")(tokens).logits) < FLOAT64


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The folder of a model of fla's."""
    folder = tmp_path_factory.mktemp("original")
    saved("gated_deltanet", folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of it."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def changed(folder, **settings):
    config = json.loads((folder / "config.json").read_text()) | settings
    config = {key: value for key, value in config.items() if value != "left out"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


OTHERS = ("head_dim", "num_v_heads", "expand_v", "use_gate", "output_gate_activation", "allow_neg_eigval")
HGRN2 = {"model_type": "hgrn2", "use_short_conv": False} | dict.fromkeys(OTHERS, "left out")
KDA = {"model_type": "kda"} | dict.fromkeys(OTHERS[-3:-1], "left out")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"model_type": "gsa"}, "model_type 'gsa'.*gated_deltanet, kda"),
        ({"model_type": "rwkv7"}, "model_type 'rwkv7': .*norm_bias"),
        ({"model_type": "mamba2"}, "model_type 'mamba2': its blocks have no MLP"),
        ({"model_type": "left out"}, "model_type None"),
        (HGRN2 | {"attn": {"layers": [1], "num_heads": 2}}, "attn = .*they have null"),
        (KDA | {"lower_bound": -5.0}, "lower_bound = -5.0, which our layers cannot"),
        ({"hidden_act": "powlu"}, 'hidden_act = "powlu".*they have "swish"'),
        ({"attnres_block_size": 2}, "attnres_block_size = 2"),
        ({"attn": GROUPED | {"layers": [1]}}, "lack model.layers.1.attn.k_proj.bias"),
        (
            {"attn": {"layers": [1], "num_heads": 2, "qk_norm": True}},
            "sets qk_norm, which .* not have for attn",
        ),
        ({"attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 3}}, "must each divide.* got 4, 3, 3"),
        (
            {"attn": {"layers": [3], "num_heads": 4}},
            r"attn for layers \[3\] with 4 heads.*layers from 0 to 2",
        ),
        ({"attn": {"layers": [1]}}, "attn for layers .* with None heads. It needs num_heads"),
        ({"attn": [{"layers": [1], "num_heads": n} for n in (2, 3)]}, "attn for layers .*each once"),
        ({"delta_gate": 2}, "sets delta_gate, which fla 0.6.0 does not have"),
        ({"vocab_size": "left out"}, "lacks vocab_size"),
        ({"use_gate": False}, "also have model.layers.0.attn.g_proj.weight"),
        ({"num_hidden_layers": 4}, "lack model.layers.3.attn.A_log.* and 13 more"),
        ({"num_hidden_layers": 2}, "also have model.layers.2.attn.A_log"),
        ({"expand_v": 1.0}, r"attn.q_conv1d|attn.v_proj.weight has shape \[36, 24\]"),
        ({"vocab_size": 62}, r"model.embeddings.weight has shape \[61, 24\].*embed_tokens.weight \[62, 24\]"),
    ],
)
def test_models_that_cannot_be_opened(settings, words, folder):
    with pytest.raises(ValueError, match=words):
        fla.from_pretrained(changed(folder, **settings))


def test_models_that_cannot_be_opened_for_a_matrix_that_lies_on_its_side(folder):
    name, file = "model.layers.1.mlp.gate_proj.weight", folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name].T.contiguous()}, file)
    with pytest.raises(ValueError, match=rf"{name} has shape \[24, 40\], which is not"):
        fla.from_pretrained(folder)


def test_attention_in_a_model_whose_class_in_fla_has_none(tmp_path):
    saved("transformer", tmp_path)
    with pytest.raises(ValueError, match="attn = .*they have null"):
        fla.from_pretrained(changed(tmp_path, **HYBRID))


def test_settings_that_a_newer_fla_has_off_are_no_obstacle(folder):
    fla.from_pretrained(changed(folder, delta_gate=False, other=None))


def test_folders_without_safetensors(folder):
    with pytest.raises(
        ValueError, match=r"There is no name/of/a/model/config.json. Give the folder of a model"
    ):
        fla.from_pretrained("name/of/a/model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks model.safetensors. Weights are read from safetensors alone"):
        fla.from_pretrained(folder)


def test_shards_and_generation_settings(folder, tmp_path):
    model = saved("gated_deltanet", tmp_path / "shards")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "shards" / "model.safetensors").unlink()
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    (tmp_path / "shards" / "generation_config.json").write_text('{"top_k": 7}')
    opened = fla.from_pretrained(tmp_path / "shards")
    assert opened.generation_config.top_k == 7
    fla.save_pretrained(opened, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["top_k"] == 7
    opened.generation_config.update(do_sample=False, temperature=0.5)
    with pytest.raises(ValueError, match="(?s)temperature.*Fix these issues to save"):
        fla.save_pretrained(opened, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    for x, y in zip(fla.from_pretrained(folder).parameters(), opened.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_model_with_more_tokens_goes_back_to_fla(folder, tmp_path):
    model = fla.from_pretrained(folder)
    model.resize_token_embeddings(70)
    fla.save_pretrained(model, tmp_path / "wider")
    assert fla.from_pretrained(tmp_path / "wider").lm_head.weight.shape == (70, 24)


def test_models_that_fla_does_not_have_are_not_saved_as_its(tmp_path):
    from ttr.models import TTRConfig, TTRForCausalLM

    with pytest.raises(ValueError, match="was not opened by ttr.integrations.fla.from_pretrained"):
        fla.save_pretrained(TTRForCausalLM(TTRConfig(hidden_size=16, num_hidden_layers=1)), tmp_path / "no")
    saved("hgrn2", tmp_path)
    model = fla.from_pretrained(tmp_path)
    with torch.no_grad():
        model.model.layers[1].mixer.gates["log_decay"].bound.fill_(9.0)
    with pytest.raises(ValueError, match="lower bounds that rise from layer to layer"):
        fla.save_pretrained(model, tmp_path / "no")
    assert not (tmp_path / "no").exists()
