"""Saving and loading: every memory is restored to the last bit in every dtype; parameters missing in a
checkpoint are reported and drawn anew."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import ttr
from tests.decoders import ENTRIES, tokens
from tests.test_layer import EXAMPLES, SIZES
from ttr.laws.rows import triples
from ttr.layer.mixer import Mixer
from ttr.models import TTRConfig


@pytest.fixture
def default_dtype():
    """Sets torch's default dtype for one test."""
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


def one_layer(name, dtype):
    config = TTRConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_heads=2, intermediate_size=24, layers=name
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ENTRIES)
def test_every_memory_comes_back_to_the_last_bit(name, dtype, tmp_path):
    model, ids = one_layer(name, dtype), tokens(1, 6)
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(report.values())
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == again.state_dict()[key].dtype == dtype and torch.equal(
            again.state_dict()[key], tensor
        ), key
    with torch.no_grad():
        logits = model(ids).logits
        assert logits.isfinite().all() and torch.equal(again(ids).logits, logits)


@pytest.mark.parametrize("name", ENTRIES)
def test_what_a_checkpoint_lacks_is_reported_and_drawn_afresh(name, tmp_path):
    model = one_layer(name, torch.bfloat16)
    lacking = {key for key in model.state_dict() if ".mixer." in key}
    model.save_pretrained(
        tmp_path, state_dict={key: tensor for key, tensor in model.state_dict().items() if key not in lacking}
    )
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert set(report["missing_keys"]) == lacking
    fresh = one_layer(name, torch.bfloat16).state_dict()
    for key in lacking:
        tensor, other = again.state_dict()[key], model.state_dict()[key]
        if torch.equal(fresh[key], other):  # fixed, not drawn
            assert torch.equal(tensor, other), key
        else:
            assert 0.2 < tensor.float().norm() / other.float().norm() < 5, key


def declared():
    """The parameters of every example of every component."""
    for example in EXAMPLES:
        yield from ((example, name, spec) for name, spec in example.parameters(SIZES).items())
    for problem in triples():
        yield from ((problem, name, spec) for name, spec in problem.parameters(2, 4, 3).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_parameters_start_in_every_dtype_and_are_not_drawn_without_a_device(dtype, default_dtype):
    def drawn(spec):
        return spec.draw(torch.Generator().manual_seed(0))

    specs = list(declared())
    wide = [drawn(spec) for *_, spec in specs]
    default_dtype(dtype)
    for (component, name, spec), start in zip(specs, wide, strict=True):
        tensor = drawn(spec)
        assert (
            tensor.dtype == dtype == torch.get_default_dtype()
            and tensor.shape == spec.shape
            and tensor.isfinite().all()
        ), (component, name)
        assert dtype == torch.float64 or torch.equal(tensor, start.to(dtype)), (component, name)
        with torch.device("meta"):
            empty = spec.draw()
        assert empty.is_meta and empty.dtype == dtype and empty.shape == spec.shape, (component, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ttr.catalogue)
def test_every_layer_runs_in_every_default_dtype(name, dtype, default_dtype):
    default_dtype(dtype)
    mixer, x = Mixer(16, ttr.catalogue[name], heads=2), torch.randn(2, 5, 16)
    assert {tensor.dtype for tensor in mixer.state_dict().values()} == {dtype}
    y = mixer(x)
    assert y.dtype == dtype and y.isfinite().all()
    default_dtype(torch.float32)
    assert torch.equal(mixer(x), y)
