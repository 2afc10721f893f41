"""The decoder compiled as one graph and exported: masks, positions and the number of tokens are no part of
the graph. Needs the shape checks off: TTR_TEST_TYPES=0."""

import copy
import os
import re
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import ttr
from tests.decoders import ENTRIES, assert_close, tiny, tokens
from tests.test_model_packing import square
from ttr.forms import LinearRecurrence
from ttr.nn import Mixer

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the compiler's own
    pytest.mark.skipif(os.environ.get("TTR_TEST_TYPES", "1") == "1", reason="run with TTR_TEST_TYPES=0"),
]

QUICK = ("gla",)
COMPILED = (*QUICK, "gated-deltanet", "mamba2", "softmax-attention-qknorm", "rwkv7")
FIXED = ("mlstm", "precond-gated-deltanet", "precond-kda")
"""Linear recurrences with parts that are computed in blocks or by halving, whose number a graph fixes."""
EXPORTED = [
    name for name in ENTRIES if ttr.catalogue[name].problem.form is LinearRecurrence and name not in FIXED
]
STREAMED = ("retnet", "gla", "mamba2", "deltanet", "gated-deltanet", "kda", "rwkv7")

PAGE = (Path(__file__).parents[1] / "docs" / "transformers.md").read_text()
PER_BLOCKS = re.findall(r"`([a-z0-9-]+)`", re.search(r"^\| a graph per number of blocks.*$", PAGE, re.M)[0])
"""The memories that docs/transformers.md names."""


def of(names, quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.full) for name in names]


def batch(time):
    """Tokens with padding on the left, on the right and between, their mask, and the positions that
    ``generate`` makes."""
    ids, mask = tokens(3, time), torch.ones(3, time, dtype=torch.int64)
    mask[0, :2] = mask[1, -3:] = mask[2, 1] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).masked_fill(mask == 0, 1),
        "labels": ids,
        "use_cache": False,
    }


@pytest.mark.parametrize("name", of(COMPILED, QUICK))
def test_one_graph_takes_any_padding_of_any_length(name):
    torch._dynamo.reset()
    model = tiny(name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for time in (9, 6, 14, 37):
        inputs = batch(time)
        outputs, gradients = [], []
        for call in (compiled, model):
            out = call(**inputs)
            outputs.append(out)
            gradients.append(torch.autograd.grad(out.loss, list(model.parameters())))
        assert_close(outputs[0].logits, outputs[1].logits)
        assert_close(outputs[0].loss, outputs[1].loss)
        for ours, wanted in zip(*gradients):
            assert_close(ours, wanted)
    assert counter.frame_count <= 2
    with pytest.raises(RuntimeError, match="must hold 1 at tokens and 0 at padding"):
        compiled(**inputs | {"attention_mask": 2 * inputs["attention_mask"]})
    with pytest.raises(RuntimeError, match="takes one sequence per row"):
        compiled(**inputs | {"position_ids": inputs["position_ids"] % 7})


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.full
@torch.no_grad()
def test_the_page_names_the_memories_with_a_graph_per_number_of_blocks(name):
    """The others have one for the first length, one for all others and, some, one for a single block."""
    torch._dynamo.reset()
    model, counter = tiny(name), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for time in (9, 12, 40, 70, 5):
        ids = tokens(1, time)
        assert_close(compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
    assert (counter.frame_count > 3) == (name in PER_BLOCKS)


@torch.no_grad()
def test_a_compiled_prompt_and_step_take_the_mask_and_positions_of_generate():
    torch._dynamo.reset()
    model, inputs, token = tiny("gla"), batch(6), tokens(3, 1)
    mask = inputs["attention_mask"]
    cache = model(inputs["input_ids"], attention_mask=mask, use_cache=True).past_key_values
    before = copy.deepcopy(cache)
    step = {
        "attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
        "position_ids": mask.sum(1, keepdim=True),
    }
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    logits = compiled(token, past_key_values=cache, **step).logits
    assert_close(logits, model(token, past_key_values=before, **step).logits)
    with pytest.raises(RuntimeError, match="takes no padding, which would enter its states"):
        compiled(token, past_key_values=before, **step | {"attention_mask": step["attention_mask"].flip(1)})
    prompt = {"position_ids": torch.arange(6).expand(3, -1), "use_cache": True}
    ours, wanted = (call(inputs["input_ids"], **prompt) for call in (compiled, model))
    assert_close(ours.logits, wanted.logits)
    assert_close(ours.past_key_values.states()[0]["memory"], wanted.past_key_values.states()[0]["memory"])


def told(read, time, spelled):
    """What a call of whole rows may be told of its tokens."""
    arguments = {
        "attention_mask": torch.ones(3, read + time, dtype=torch.int64),
        "position_ids": torch.arange(read, read + time).expand(3, -1),
    }
    return {name: arguments[name] for name in spelled}


MASK, POSITIONS = ("attention_mask",), ("position_ids",)


@pytest.mark.parametrize(
    "name, spelled, graphs",
    [
        ("gla", (*MASK, *POSITIONS), 5),
        ("mamba2", MASK, 5),
        ("gated-deltanet", POSITIONS, 5),
        ("softmax-attention-qknorm", POSITIONS, 8),
    ],
)
@pytest.mark.full
@torch.no_grad()
def test_compiled_calls_keep_a_cache(name, spelled, graphs):
    """Two graphs for prompts of any length, two for what continues them and one for a token. Attention also
    tells apart whether there is room in the buffers of its state."""
    torch._dynamo.reset()
    model = tiny(name)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for first in (9, 6, 14):
        read, caches = 0, [None, None]
        for time in (first, 5, 12, 1, 1, 7):
            ids, arguments = tokens(3, time), {"use_cache": True, **told(read, time, spelled)}
            outputs = [
                call(ids, past_key_values=cache, **arguments)
                for call, cache in zip((compiled, model), caches)
            ]
            caches = [out.past_key_values for out in outputs]
            read += time
            assert_close(outputs[0].logits, outputs[1].logits)
            assert caches[0].get_seq_length() == caches[1].get_seq_length() == read
    for ours, wanted in zip(*(cache.states() for cache in caches)):
        assert torch.equal(ours.position, wanted.position)
        for key in wanted:
            assert_close(ours[key], wanted[key])
    assert counter.frame_count <= graphs


@pytest.mark.full
@torch.no_grad()
def test_what_one_graph_cannot_hold_is_refused_when_it_runs_and_packed_between_two():
    torch._dynamo.reset()
    model, ids, mask = tiny("gla"), tokens(3, 6), torch.ones(3, 6, dtype=torch.int64)
    positions, padding = torch.arange(6).expand(3, -1), mask.index_fill(1, torch.tensor([0]), 0)
    one = torch.compile(model, backend="eager", fullgraph=True)
    cache = one(ids, position_ids=positions, use_cache=True).past_key_values
    for sentence, refused in (
        ("takes one sequence per row", {"position_ids": positions % 4}),
        ("takes no padding, which would enter its states", {"attention_mask": padding, "use_cache": True}),
        ("begin a sequence at 0, but the cache", {"position_ids": positions, "past_key_values": cache}),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            one(ids, **refused)
    torch._dynamo.reset()  # otherwise the graphs above serve this call, too
    split = torch.compile(model, backend="eager")
    for accepted in ({"position_ids": positions % 4}, {"attention_mask": padding, "use_cache": True}):
        outputs = [call(ids, **accepted) for call in (split, model)]
        assert_close(outputs[0].logits, outputs[1].logits)
    for ours, wanted in zip(*(out.past_key_values.states() for out in outputs)):
        assert_close(ours["memory"], wanted["memory"])


NUMBERS = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 3, 3]])
BOUNDS = torch.tensor([0, 4, 7, 9])


@pytest.mark.parametrize(
    "packed, sentence",
    [
        ({"cu_seqlens": BOUNDS}, "^cu_seqlens can tell of several sequences"),
        (
            {"cu_seq_lens_q": BOUNDS, "cu_seq_lens_k": BOUNDS, "labels": NUMBERS},
            "^cu_seq_lens_q and cu_seq_lens_k can tell",
        ),
        ({"seq_idx": NUMBERS}, "^seq_idx can tell"),
        ({"attention_mask": square(NUMBERS)}, "^attention_mask can tell"),
        ({"attention_mask": NUMBERS}, "compiled call attention_mask must hold 1 at tokens and 0 at padding"),
    ],
    ids=["cu_seqlens", "flash", "seq_idx", "square mask", "numbered mask"],
)
@torch.no_grad()
def test_packed_sequences_in_one_graph_are_refused_in_a_sentence(packed, sentence):
    torch._dynamo.reset()
    one = torch.compile(tiny("linear-attention"), backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=f"{sentence}.*ithout fullgraph=True.*in its own row"):
        one(tokens(1, 9), use_cache=False, **packed)


@pytest.mark.parametrize("name", of(EXPORTED, ("gla", "gated-deltanet")))
def test_an_exported_graph_takes_any_number_of_tokens(name):
    model, time = tiny(name), torch.export.Dim("time", min=2, max=4096)
    inputs = {key: x for key, x in batch(9).items() if key in ("input_ids", "attention_mask", "use_cache")}
    axes = {"input_ids": {1: time}, "attention_mask": {1: time}, "use_cache": None}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=axes, strict=False).module()
    for length in (3, 9, 70):
        inputs = {key: x for key, x in batch(length).items() if key in inputs}
        with torch.no_grad():
            assert_close(exported(**inputs).logits, model(**inputs).logits)


class Call(torch.nn.Module):
    """One way to call a layer, as a module."""

    def __init__(self, mixer, call):
        super().__init__()
        self.mixer, self.call = mixer, call

    def forward(self, x, state):
        return self.call(self.mixer, x, state)


def chunk(mixer, x, state):
    return mixer(x, state, return_state=True)


def step(mixer, x, state):
    return mixer.step(x, state)


@torch.no_grad()
@pytest.mark.parametrize("name", of(STREAMED, ("gla", "gated-deltanet")))
def test_exported_calls_of_a_layer_hand_on_their_state(name):
    mixer = Mixer(16, ttr.catalogue[name], heads=2).double()
    exported, wanted = mixer.initial_state(2), mixer.initial_state(2)
    fixed, time = [None] * (len(wanted.tensors) + 1), torch.export.Dim("time", min=2, max=4096)
    graphs = {
        call: torch.export.export(
            Call(mixer, call), (x, wanted), dynamic_shapes=(axes, fixed), strict=False
        ).module()
        for call, x, axes in (
            (chunk, torch.randn(2, 9, 16).double(), {1: time}),
            (step, torch.randn(2, 16).double(), None),
        )
    }
    for call, *length in ((chunk, 2), (step,), (chunk, 70), (step,)):
        x = torch.randn(2, *length, 16).double()
        (y, exported), (wanted_y, wanted) = graphs[call](x, exported), call(mixer, x, wanted)
        assert_close(y, wanted_y)
        for key in wanted:
            assert_close(exported[key], wanted[key])
        assert torch.equal(exported.position, wanted.position)
