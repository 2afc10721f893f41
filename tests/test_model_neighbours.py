"""What generic code of transformers, accelerate and torch.ao reads of a model, or makes of it."""

import json

import pytest
import torch
from accelerate import big_modeling
from transformers import configuration_utils

from tests.decoders import tiny, tokens
from ttr.laws.tolerances import error
from ttr.models import TTRConfig


def test_layers_have_a_type_that_transformers_knows(tmp_path):
    model = tiny()
    assert set(model.config.layer_types) <= set(configuration_utils.ALLOWED_LAYER_TYPES)
    assert len(model.config.layer_types) == len(model.model.layers)
    model.config.save_pretrained(tmp_path)
    assert "layer_types" not in json.loads((tmp_path / "config.json").read_text())
    known = {"num_hidden_layers": 2, "layer_types": ["linear_attention"] * 2}
    config = TTRConfig(**known | {"layer_types": None})
    config.layer_types = known["layer_types"]
    assert TTRConfig(**known).layer_types == config.layer_types == known["layer_types"]
    with pytest.raises(ValueError, match="layer_types = .*full_attention.* follows from the memories"):
        TTRConfig(**known | {"layer_types": ["full_attention"] * 2})


@pytest.mark.parametrize("name", ["gated-deltanet", "softmax-attention"])
def test_accelerate_does_not_split_sequences_whose_states_it_does_not_pass_on(name):
    """Without a type it would, and train with wrong gradients."""
    with pytest.raises(ValueError, match="carry a recurrent state along the sequence"):
        big_modeling._refuse_recurrent_layers_under_sequence_parallelism(tiny(name))
    with pytest.raises(ValueError, match="Context parallelism does not support"):
        big_modeling._attach_context_parallel_hooks(tiny(name))


@pytest.mark.parametrize("name", ["gated-deltanet", "rwkv7", "softmax-attention"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # its own
@torch.no_grad()
def test_linear_modules_are_quantised_by_torch_ao(name):
    model, ids = tiny(name, dtype=torch.float32, hidden_size=64), tokens(2, 9)
    wanted = model(ids).logits
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert not any(isinstance(module, torch.nn.Linear) for module in quantised.modules())
    assert 0 < error(quantised(ids).logits, wanted) < 0.2
    assert quantised.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 12)
