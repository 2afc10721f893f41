"""The decoder's cache: what it continues from, what it refuses, and that a refused call leaves it
unchanged."""

import copy
import dataclasses

import pytest
import torch

import ttr
from tests.decoders import ENTRIES, HYBRID, assert_close, tiny, tokens
from ttr.models import TTRCache
from ttr.models.modeling import CACHE
from ttr.weights.cosine import Cosine
from ttr.weights.fenwick_levels import FenwickLevels


@pytest.mark.parametrize("name", [*ENTRIES, HYBRID])
def test_a_prompt_read_in_inference_mode_goes_on_outside_it(name):
    model, ids = tiny(name), tokens(2, 7)
    with torch.no_grad():
        wanted = model(ids).logits[:, 4:]
    with torch.inference_mode():
        cache = model(ids[:, :4], use_cache=True).past_key_values
    kept, stepped = copy.deepcopy(cache), copy.deepcopy(cache)
    with torch.no_grad():
        steps = [model(ids[:, t : t + 1], past_key_values=stepped).logits for t in range(4, 7)]
        assert_close(torch.cat(steps, dim=1), wanted)
        new = model.generate(ids[:, :5], **{CACHE: cache}, max_new_tokens=3, do_sample=False)
        assert torch.equal(new, model.generate(ids[:, :5], max_new_tokens=3, do_sample=False))
    logits = model(ids[:, 4:], past_key_values=kept).logits
    assert_close(logits, wanted)
    logits.sum().backward()


def test_a_cache_in_a_graph_can_be_copied_and_its_graph_outlives_steps():
    model, ids = tiny(), tokens(2, 6)
    out = model(ids[:, :4], use_cache=True)
    kept = copy.deepcopy(out.past_key_values)
    with torch.no_grad():
        model.generate(ids[:, :5], **{CACHE: out.past_key_values}, max_new_tokens=3, do_sample=False)
    logits = model(ids[:, 4:], past_key_values=kept).logits
    gradients = []
    for loss in (out.logits.square().sum() + logits.square().sum(), model(ids).logits.square().sum()):
        model.zero_grad()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[1].items():
        assert_close(gradients[0][name], gradient)


@pytest.mark.parametrize(
    ("layers", "rows", "words"),
    [
        (HYBRID[:2], 2, "This cache has 2 layers and the model 3"),
        ((*HYBRID, HYBRID[0]), 2, "This cache has 4 layers and the model 3"),
        (HYBRID, 1, "holds the states of 1 sequences, and the call has 2"),
        ((*HYBRID[:2], "gla"), 2, "of a model whose layers have other memories"),
        ((*HYBRID[:2], "linear-attention"), 2, "of a model whose layers have other memories"),
    ],
)
@pytest.mark.parametrize("time", [1, 4])
def test_a_refused_cache_stays_as_it_was(layers, rows, words, time):
    model, other, ids = tiny(), tiny(layers), tokens(2, 4)
    with torch.no_grad():
        cache = other(ids[:rows], use_cache=True).past_key_values
        other(ids[:rows, :1], past_key_values=cache)
        before = copy.deepcopy(cache)
        with pytest.raises(ValueError, match=words):
            model(ids[:, :time], past_key_values=cache)
        assert cache.get_seq_length() == 5
        assert torch.equal(
            other(ids[:rows], past_key_values=cache).logits, other(ids[:rows], past_key_values=before).logits
        )


@pytest.mark.parametrize("time", [1, 4])
def test_states_of_another_memory_put_in_by_hand_are_refused_before_any_layer_goes_on(time):
    model, other, ids = tiny(), tiny((*HYBRID[:2], "gla")), tokens(2, 4)
    with torch.no_grad():
        read, cache = other(ids, use_cache=True).past_key_values, TTRCache(3)
        for layer, state in zip(cache.layers, read.states(), strict=True):
            layer.state = state.clone()
        with pytest.raises(ValueError, match="The state.*(must have shape|holds)|This state holds"):
            model(ids[:, :time], past_key_values=cache)
        assert torch.equal(other(ids, past_key_values=cache).logits, other(ids, past_key_values=read).logits)


LIMITED = {
    "horizon": dataclasses.replace(ttr.catalogue["cosformer"].problem, weights=Cosine(horizon=6)),
    "levels": dataclasses.replace(
        ttr.catalogue["log-linear-attention"].problem, weights=FenwickLevels(levels=4)
    ),
    "capacity": ttr.catalogue["softmax-attention"].problem,
}


@pytest.mark.parametrize("limit", LIMITED)
@pytest.mark.parametrize("time", [1, 3])
def test_a_token_beyond_a_limit_leaves_the_layers_before_as_they_were(limit, time):
    model, ids, cache = tiny(("gated-deltanet", LIMITED[limit])), tokens(2, 12), TTRCache(2)
    with torch.no_grad():
        if limit == "capacity":
            for layer, block in zip(cache.layers, model.model.layers, strict=True):
                layer.state = block.mixer.initial_state(2, capacity=6)
        model(ids[:, :5], past_key_values=cache)
        most = 8 if limit == "levels" else 6
        for t in range(5, most):
            model(ids[:, t : t + 1], past_key_values=cache)
        before = copy.deepcopy(cache)
        for _ in range(2):
            with pytest.raises(ValueError, match="horizon is 6|horizon is 8|capacity of 6 pairs"):
                model(ids[:, most : most + time], past_key_values=cache)
            assert_same(cache, before)


@pytest.mark.parametrize("time", [1, 3])
def test_a_token_that_the_first_layer_refuses_changes_nothing(time):
    model, ids = tiny(), tokens(2, 5)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        model(ids[:, :1], past_key_values=cache)
        before = copy.deepcopy(cache)
        with pytest.raises(ValueError, match="NaN"):
            model(inputs_embeds=torch.full((2, time, 16), torch.nan).double(), past_key_values=cache)
        assert_same(cache, before)
        assert torch.equal(
            model(ids, past_key_values=cache).logits, model(ids, past_key_values=before).logits
        )


def assert_same(cache, other):
    assert cache.get_seq_length() == other.get_seq_length()
    for state, wanted in zip(cache.states(), other.states(), strict=True):
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(state.state_dict()[name], tensor), name


def test_a_call_that_fails_midway_is_not_gone_on_from():
    model, ids = tiny(), tokens(2, 5)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        model(ids[:, 4:], past_key_values=cache)
        norm, model.model.layers[2].mixer_norm = (
            model.model.layers[2].mixer_norm,
            torch.nn.Linear(16, 16).double(),
        )
        model.model.layers[2].mixer_norm.weight.fill_(torch.nan)
        kept = copy.deepcopy(cache)
        with pytest.raises(ValueError, match="NaN"):
            model(ids, past_key_values=kept)
        with pytest.raises(ValueError, match="NaN"):
            model(ids[:, :1], past_key_values=cache)
        model.model.layers[2].mixer_norm = norm
        with pytest.raises(ValueError, match="failed after some of its layers had advanced.*reset"):
            model(ids[:, :1], past_key_values=cache)
        assert_close(
            model(ids, past_key_values=kept).logits, model(torch.cat([ids, ids], dim=1)).logits[:, 5:]
        )
        cache.reset()
        assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_a_cache_has_two_names_and_is_given_once():
    model, ids = tiny(), tokens(1, 4)
    for part in (model, model.model):
        cache = part(ids[:, :2], use_cache=True).past_key_values
        assert_close(
            part(ids[:, 2:], cache=copy.deepcopy(cache))[0],
            part(ids[:, 2:], past_key_values=copy.deepcopy(cache))[0],
        )
        with pytest.raises(ValueError, match="two names of the same argument"):
            part(ids[:, 2:], cache=cache, past_key_values=cache)
    half = TTRCache(3)
    half.layers[0].state = cache.layers[0].state
    with pytest.raises(ValueError, match="Some layers of this cache have a state"):
        model(ids, cache=half)
