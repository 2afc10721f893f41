"""LoRA by PEFT (`make check`, in an environment with it): recipes by name, all linear modules, low-rank gates
among them; merged adapters give the same logits."""

from importlib.util import find_spec

import pytest
import torch

from tests.decoders import ENTRIES, assert_close, tiny, tokens
from ttr.laws.tolerances import FLOAT32, error

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not find_spec("peft"), reason="needs peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # its own
]


def adapted(model, modules):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def adapters(model):
    return {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}


def test_a_recipe_by_name_adapts_the_projections():
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    found = {name.rpartition(".")[2] for name in adapters(adapted(tiny("gated-deltanet"), names))}
    assert found == set(names)


@pytest.mark.parametrize("name", ["kda", "rwkv7", "gla", "mamba3"])
def test_low_rank_gates_get_adapters(name):
    model = adapted(tiny(name), "all-linear")
    assert {gate.rpartition(".")[2] for gate in adapters(model) if ".mixer.gates." in gate}
    assert any(gate.endswith(".down") for gate in adapters(model)) == (name != "mamba3")


def test_every_adapter_acts_and_is_merged():
    """On every memory at once; in float64, since there are as many layers as memories."""
    plain = tiny(ENTRIES, initializer_range=0.02)
    ids, before = tokens(2, 7), plain(tokens(2, 7)).logits
    model = adapted(plain, "all-linear").double()
    logits = model(ids, labels=ids)
    logits.loss.backward()
    for name, tensor in model.named_parameters():
        assert not tensor.requires_grad or tensor.grad is not None, name
    with torch.no_grad():
        generated = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert error(logits.logits, before) > FLOAT32
        merged = model.merge_and_unload()
        assert_close(merged(ids).logits, logits.logits)
        again = merged.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert torch.equal(again, generated)
