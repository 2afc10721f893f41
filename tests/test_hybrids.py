"""Recurrent and hybrid models of transformers, accelerated: equal to themselves."""

import copy
import functools
import gc
import io
import os
import weakref
from itertools import pairwise

import pytest
import torch

pytest.importorskip("transformers")

import transformers
import transformers.models.qwen3_next.modeling_qwen3_next as qwen3_next
from torch import nn

from tests.hybrids import cache_of, ids
from ttr.experiments.bench.hybrids import FAMILIES, TINY, build
from ttr.integrations.transformers import (
    RULES,
    accelerate,
    accelerated,
    acceleration,
    replacement,
    restore,
)
from ttr.laws.tolerances import FLOAT32, FLOAT32_OUTPUTS, error

QUICK = ("qwen3-next", "kimi-linear", "mamba2", "mamba", "minimax", "recurrent-gemma", "xlstm", "rwkv")
UNPLANNED = (
    "zamba2",
    "recurrent-gemma",
    "xlstm",
    "rwkv",
)  # some layers keep states elsewhere than in a Cache
TOKENS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def families():
    """Those that this version of transformers has."""
    there = [f for f, (name, _) in FAMILIES.items() if hasattr(transformers, f"{name}ForCausalLM")]
    return [pytest.param(f, marks=[] if f in QUICK else [pytest.mark.full]) for f in there]


@pytest.fixture(autouse=True)
def nothing_stays():
    gc.freeze()  # collecting what was there before takes half a second
    yield
    assert qwen3_next.torch_chunk_gated_delta_rule.__module__ == qwen3_next.__name__
    gc.collect()
    gc.unfreeze()
    assert not replacement._users


@torch.no_grad()
def outputs(model):
    """Logits of a batch, of one with padding, of a continuation and of single tokens after it; generated
    tokens, greedy and by beams."""
    tokens, mask = ids(), torch.ones(2, 70, dtype=torch.long)
    mask[0, :9] = 0
    whole = model(tokens).logits
    padded = model(tokens, attention_mask=mask).logits[mask.bool()]
    first = model(tokens[:, :30], use_cache=True)
    continued = model(tokens[:, 30:60], use_cache=True, **cache_of(first))
    single = []
    for t in range(60, 66):
        single.append(model(tokens[:, t : t + 1], use_cache=True, **cache_of(continued)).logits)
    short = {"attention_mask": mask[:, :20], **TOKENS}
    searches = [{}, {"num_beams": 2}] if "past_key_values" in first else [{}]  # others cannot be reordered
    generated = [model.generate(tokens[:, :20], **short, **search) for search in searches]
    return [whole, padded, continued.logits, torch.cat(single, 1)], generated


@pytest.mark.parametrize("family", families())
def test_a_model_computes_what_it_did(family):
    model = build(family, TINY)
    logits, tokens = outputs(model)
    assert accelerate(model) is model
    found, generated = outputs(model)
    assert [error(a, b) < FLOAT32_OUTPUTS for a, b in zip(logits, found)] == [True] * 4
    assert all(map(torch.equal, tokens, generated))
    plans = [acceleration._planners[layer].plans.values() for layer in acceleration._layers(model)]
    # the layers in layers, as in Zamba2, are planned in place of these
    every = sum(map(bool, plans)) >= model.config.num_hidden_layers and all(map(all, plans))
    assert every or family in UNPLANNED, "every layer decodes as planned"
    again, _ = outputs(restore(model))
    assert all(map(torch.equal, logits, again)), "restored, a model is transformers' to the last digit"


def imprecise(rule):
    """The rule with relative errors of about 1e-3 in its outputs."""

    @functools.wraps(rule)
    def wrong(*args, **kwargs):
        done = rule(*args, **kwargs)
        y = done[0] if isinstance(done, tuple) else done
        noise = 1e-3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        y = (y * (1 + noise)).to(y.dtype)
        return (y, *done[1:]) if isinstance(done, tuple) else y

    return wrong


@pytest.mark.parametrize("family", families())
@torch.no_grad()
def test_errors_of_rules_show(family, monkeypatch):
    """Far beyond what the other tests allow, so that these would see them."""
    model = build(family, TINY)
    expected = model(ids()).logits
    for name, rule in RULES.items():
        monkeypatch.setitem(RULES, name, imprecise(rule))
    with accelerated():
        assert error(expected, model(ids()).logits) > 5 * FLOAT32_OUTPUTS


@pytest.mark.parametrize("family", families())
def test_gradients(family):
    """Against transformers' own; the largest gradient of the model is the scale, since some are roundings."""
    model = build(family, TINY).train()

    def gradients():
        model.zero_grad()
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    with accelerated():
        found = gradients()
    scale = max(g.abs().max() for g in expected.values())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (gradient - found[name]).abs().max() / scale < FLOAT32_OUTPUTS, name


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", families())
def test_gradients_with_layers_that_are_recomputed(family, reentrant, monkeypatch):
    """Both passes through a layer are ttr's, in transformers' own way of checkpointing."""
    model, called = build(family, TINY).train(), []
    for name, rule in RULES.items():
        counted = functools.partial(lambda rule, *args, **kw: called.append(rule) or rule(*args, **kw), rule)
        monkeypatch.setitem(RULES, name, counted)
    accelerate(model)

    def gradients():
        model.zero_grad()
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected, once = gradients(), len(called)
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    getattr(model, new if hasattr(model, new) else old)({"use_reentrant": reentrant})
    before = [layer._gradient_checkpointing_func for layer in acceleration._layers(model)]
    assert error(expected, gradients()) < FLOAT32_OUTPUTS
    assert len(called) >= 3 * once > 0  # more where layers are in layers, as in Zamba2
    assert [layer._gradient_checkpointing_func for layer in acceleration._layers(model)] == before
    restore(model)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(os.environ.get("TTR_TEST_TYPES", "1") == "1", reason="run with TTR_TEST_TYPES=0")
def test_compiled_models_are_transformers_own_but_for_layers_that_are_recomputed(monkeypatch):
    torch._dynamo.reset()
    model, called, scan = build("mamba2", TINY), [], RULES["mamba2_chunk_scan"]
    monkeypatch.setitem(RULES, "mamba2_chunk_scan", lambda *a, **kw: called.append(1) or scan(*a, **kw))
    with torch.no_grad():
        expected = model(ids()).logits
        compiled = torch.compile(accelerate(model), backend="eager", fullgraph=True)
        assert torch.equal(compiled(ids(), use_cache=False).logits, expected) and not called
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    getattr(model, new if hasattr(model, new) else old)()
    torch._dynamo.reset()
    loss = torch.compile(model.train(), backend="eager")(ids(), labels=ids(), use_cache=False).loss
    loss.backward()
    assert len(called) == 2 * model.config.num_hidden_layers
    restore(model)


def test_gradients_are_as_exact_as_transformers():
    def gradients(dtype, fast):
        model = build("qwen3.5", TINY).train().to(dtype)
        accelerate(model) if fast else model
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        return torch.cat([p.grad.flatten().double() for p in restore(model).parameters()])

    exact = gradients(torch.float64, True)
    ours, theirs = ((gradients(torch.float32, fast) - exact).norm() for fast in (True, False))
    assert ours < 1.5 * theirs


PACKED = (
    *("qwen3-next", "qwen3.5", "qwen3.5-moe", "qwen4-exp", "olmo-hybrid", "kimi-linear", "bailing-hybrid"),
    *(
        "bamba",
        "falcon-h1",
        "granite-4-hybrid",
        "nemotron-h",
        "zamba2",
        "lfm2",
        "lfm2-moe",
        "lfm3",
        "minimax",
    ),
)


@pytest.mark.parametrize("family", PACKED)
@torch.no_grad()
def test_packed_sequences(family):
    """transformers refuses them without a package for GPUs, or mixes them, in the attention between recurrent
    layers, too, unless positions begin again."""
    model, tokens = accelerate(build(family, TINY)), ids(1)
    bounds = torch.tensor([0, 11, 12, 70], dtype=torch.int32)
    parts = [slice(*ends) for ends in pairwise(bounds.tolist())]
    alone = torch.cat([model(tokens[:, part]).logits for part in parts], dim=1)
    ends = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 58, "max_length_k": 58}
    positions = torch.cat([torch.arange(part.stop - part.start) for part in parts])[None]
    number = torch.repeat_interleave(torch.arange(3, dtype=torch.int32), bounds.diff())[None]
    spellings = {"position_ids": positions, **ends}, ends, {"seq_idx": number}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        for packed in spellings:
            assert error(model(tokens, use_cache=False, **packed).logits, alone) < FLOAT32_OUTPUTS
        mask = (number != 1).long()  # the second sequence is padding
        padded = model(tokens, attention_mask=mask, use_cache=False, **ends).logits
        assert error(padded[mask > 0], alone[mask > 0]) < FLOAT32_OUTPUTS
    restore(model)


def test_wrong_bounds_are_refused():
    convolution = RULES["causal_conv1d_fn"]
    x, weight = torch.randn(1, 4, 8), torch.randn(4, 3)
    for bounds in ([0, 9], [1, 8], [0, 5, 3, 8]):
        with pytest.raises(ValueError, match="must rise from 0 to the 8 tokens"):
            convolution(x, weight, cu_seqlens=torch.tensor(bounds))
    with pytest.raises(ValueError, match="packed in one row"):
        convolution(x.repeat(2, 1, 1), weight, seq_idx=torch.zeros(2, 8))


def test_numbered_sequences_are_bounds():
    convolution = RULES["causal_conv1d_fn"]
    x, weight = torch.randn(1, 4, 8), torch.randn(4, 3)
    numbers = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    expected = convolution(x, weight, cu_seqlens=torch.tensor([0, 3, 5, 8]))
    assert torch.equal(convolution(x, weight, seq_idx=numbers), expected)


@torch.no_grad()
def test_half_precision_is_as_exact_as_transformers():
    model, tokens = build("qwen3.5", TINY), ids()
    exact = model(tokens).logits
    half = model.bfloat16()
    theirs = (half(tokens).logits.float() - exact).square().mean().sqrt()
    with accelerated():
        ours = (half(tokens).logits.float() - exact).square().mean().sqrt()
    assert ours < 1.1 * theirs


class Tagged(torch.Tensor):
    pass


@torch.no_grad()
def test_other_models_stay_transformers_own():
    expected, rule = build("qwen3-next", TINY)(ids()).logits, qwen3_next.torch_chunk_gated_delta_rule
    accelerate(model := build("qwen3-next", TINY))
    assert torch.equal(build("qwen3-next", TINY)(ids()).logits, expected)
    assert not torch.equal(model(ids()).logits, expected)
    restore(model)
    assert qwen3_next.torch_chunk_gated_delta_rule is rule


def test_a_package_for_gpus_is_not_called_on_the_cpu(monkeypatch):
    """With fla installed, transformers calls it on the CPU, too, where it fails."""

    def fla(*args, **kwargs):
        raise RuntimeError("0 active drivers")

    fla.__wrapped__ = qwen3_next.torch_chunk_gated_delta_rule.__wrapped__
    monkeypatch.setattr(qwen3_next, "torch_chunk_gated_delta_rule", fla)
    model = build("qwen3-next", TINY)
    with pytest.raises(RuntimeError, match="drivers"):
        model(ids())
    expected = None
    with accelerated(), torch.no_grad():
        expected = model(ids()).logits
        q, k, v = torch.randn(3, 1, 5, 2, 4)
        gates = -torch.rand(1, 5, 2), torch.rand(1, 5, 2)
        # a tensor of another class is left to transformers' own rule in torch
        qwen3_next.torch_chunk_gated_delta_rule(q.as_subclass(Tagged), k, v, *gates)
    monkeypatch.undo()
    with torch.no_grad():
        assert error(model(ids()).logits, expected) < FLOAT32_OUTPUTS


def test_other_devices_reach_the_original(monkeypatch):
    called = []
    monkeypatch.setattr(
        qwen3_next, "causal_conv1d_fn", lambda *args, **kwargs: called.append(args) or args[0]
    )
    x = torch.empty(1, 4, 8, device="meta")
    with accelerated():
        assert qwen3_next.causal_conv1d_fn(x, torch.empty(4, 3, device="meta")) is x
    assert len(called) == 1


def test_a_copy_and_a_saved_model():
    model = accelerate(build("mamba2", TINY))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(ids()).logits
        twin.backbone.layers[0].mixer.out_proj.weight.zero_()
        assert error(expected, twin(ids()).logits) > FLOAT32
        assert torch.equal(model(ids()).logits, expected)
    restore(model)
    with torch.no_grad():  # the copy stays accelerated
        assert not torch.equal(twin(ids()).logits, restore(twin)(ids()).logits)


@pytest.mark.parametrize("copied", [False, True])
@torch.no_grad()
def test_a_loaded_model_is_accelerated_anew(copied):
    model = build("mamba2", TINY)
    expected = model(ids()).logits
    file = io.BytesIO()
    torch.save(accelerate(model), file)
    file.seek(0)
    found, loaded = model(ids()).logits, torch.load(file, weights_only=False)
    restore(model)
    loaded = copy.deepcopy(loaded) if copied else loaded
    assert torch.equal(loaded(ids()).logits, expected)
    assert torch.equal(accelerate(loaded)(ids()).logits, found) and not torch.equal(found, expected)
    assert torch.equal(restore(loaded)(ids()).logits, expected)


@torch.no_grad()
def test_a_part_of_a_model():
    """Each layer is accelerated once, and counted once."""
    model = build("qwen3-next", TINY)
    expected = model(ids()).logits
    accelerate(model)
    accelerate(model.model)
    layers = acceleration._layers(model)
    assert list(replacement._users.values()) == [len(layers)]
    restore(layers[-1])
    assert list(replacement._users.values()) == [len(layers) - 1]
    assert not torch.equal(model(ids()).logits, expected)
    restore(model.model)
    assert not replacement._users and torch.equal(model(ids()).logits, expected)


def test_a_model_is_freed():
    model = accelerate(build("mamba2", TINY))
    outputs(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_model_is_freed_while_another_is_accelerated(monkeypatch):
    """The garbage collector may run anywhere, and with it what removes the rules of a model."""
    models, replaced, seen = [accelerate(build("mamba2", TINY))], replacement._replaced, []
    models[0].cycle, gone = models[:], weakref.ref(models[0])

    def collected(*args):
        free = replacement._lock.acquire(blocking=False)
        assert free, "the thread would wait for itself"
        replacement._lock.release()
        models.clear()
        gc.collect()
        seen.append(gone())
        return replaced(*args)

    monkeypatch.setattr(replacement, "_replaced", collected)
    restore(accelerate(build("mamba", TINY)))
    assert seen and seen[0] is None


def test_models_without_such_layers_are_refused():
    with pytest.raises(ValueError, match="no recurrent layers of transformers"):
        accelerate(nn.Linear(2, 2))
    model = build("mamba2", TINY)
    for layer in acceleration._layers(model):
        layer.forward = functools.partial(type(layer).forward, layer)
    with pytest.raises(ValueError, match="have a forward of their own"):
        accelerate(model)


@torch.no_grad()
def test_nan_stays_nan():
    """transformers does not check numbers, and neither does a model that it is accelerated."""
    model = accelerate(build("mamba2", TINY))
    model.backbone.embeddings.weight[5] = torch.nan
    tokens = ids().clamp(min=6)
    tokens[0, 60] = 5
    logits = model(tokens).logits[..., 6:]  # the embeddings are those of the outputs, too
    assert logits[0, 60:].isnan().all() and not logits[1].isnan().any()
    restore(model)


def test_the_table_of_the_benchmark(tmp_path, monkeypatch):
    from rich.console import Console

    from ttr.experiments.bench import hybrids_table

    for name, value in {"SMALL": TINY, "PREFILL": 16, "TRAINING": 8, "DECODED": 2, "BEFORE": 4}.items():
        monkeypatch.setattr(hybrids_table, name, value)
    threads = torch.get_num_threads()
    page = hybrids_table.table(("qwen3.5",), 1, tmp_path, Console(quiet=True))
    torch.set_num_threads(threads)
    cells = page.splitlines()[-1].split("|")[1:-1]
    assert (tmp_path / "hybrids.md").read_text() == page
    assert cells[0].strip() == "qwen3.5" and max(map(float, cells[1:3])) < FLOAT32_OUTPUTS
    before, after = cells[3].split(",")
    assert before.strip() == "refused" and float(after) < FLOAT32_OUTPUTS
    assert all(cell.count("->") == 1 for cell in cells[4:])
