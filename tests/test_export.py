"""The decoder exported by ``torch.export``, and to ONNX Runtime in an environment with it (`make check`): in
the forms that docs/export.md names, equal to the model over calls that go on from each other's states. Needs
the shape checks off: TTR_TEST_TYPES=0."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.decoders import ENTRIES, tiny, tokens
from ttr.laws.tolerances import FLOAT32, error
from ttr.models import ExportableDecoder

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),  # the exporters' own
    pytest.mark.skipif(os.environ.get("TTR_TEST_TYPES", "1") == "1", reason="run with TTR_TEST_TYPES=0"),
]
runtime = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs onnxscript and onnxruntime"
)

PAGE = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
FORMS = {
    name: tuple(cell.strip() == "yes" for cell in cells.split("|")[:3])
    for name, cells in re.findall(r"^\| `([a-z0-9-]+)` \|(.*)\|$", PAGE, re.MULTILINE)
}
"""Entry -> whether it exports by token and loop; to ONNX Runtime; in chunks."""

STEP, LOOP, CHUNKS = (1, 1, 1, 1), (3, 7, 2), (3, 30, 9)
"""The tokens of the calls of each form."""
WITHOUT_ONNX_LOOP = ("rebased", "power-attention")
"""Entries that pick channels by lists of numbers, constants that torch does not convert inside a loop."""


def decoder(name, **settings):
    return ExportableDecoder(tiny(name, dtype=torch.float32), capacity=64, **settings).requires_grad_(False)


def exported(model, lengths):
    """The program of a call, for any number of tokens where the lengths differ."""
    states = model.initial_states(2)
    time = {1: torch.export.Dim("time", min=2, max=1024)} if len(set(lengths)) > 1 else None
    shapes = {"input_ids": time, "states": (None,) * len(states)}
    with torch.no_grad():
        call = tokens(2, 9 if time else 1), *states
        return torch.export.export(model, call, dynamic_shapes=shapes, strict=False)


def in_onnx_runtime(model, program):
    from onnxruntime import InferenceSession

    names = {"input_names": model.input_names, "output_names": model.output_names}
    graph = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, **names).model_proto
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == model.output_names
    assert [each.name for each in session.get_inputs()] == model.input_names

    def call(*tensors):
        given = {name: x.numpy() for name, x in zip(model.input_names, tensors)}
        return [torch.from_numpy(x) for x in session.run(None, given)]

    return call


@torch.no_grad()
def check(call, model, lengths, batch=2):
    """That every call gives what the model gives, from the states of the call before."""
    ours = wanted = model.initial_states(batch)
    for length in lengths:
        ids = tokens(batch, length)
        (logits, *ours), (wanted_logits, *wanted) = call(ids, *ours), model(ids, *wanted)
        for name, x, y in zip(model.output_names, (logits, *ours), (wanted_logits, *wanted)):
            assert x.dtype == y.dtype and error(x, y) <= FLOAT32, name


def of(names, *quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.full) for name in names]


def test_the_page_has_every_causal_entry():
    assert tuple(FORMS) == ENTRIES


@pytest.mark.parametrize("name", of(ENTRIES, "gated-deltanet"))
def test_one_token(name):
    model = decoder(name)
    check(exported(model, STEP).module(), model, STEP)


@pytest.mark.full
def test_layers_of_different_sizes():
    grouped = {"num_heads": [2, 4], "key_heads": [None, 2], "dtype": torch.float32}
    model = tiny(("gated-deltanet", "softmax-attention"), **grouped)
    model = ExportableDecoder(model, capacity=64).requires_grad_(False)
    check(exported(model, STEP).module(), model, STEP)


@pytest.mark.full
@pytest.mark.parametrize("name", ENTRIES)
def test_any_number_of_tokens_in_a_loop(name):
    model = decoder(name)
    check(exported(model, LOOP).module(), model, LOOP)


@pytest.mark.full
@pytest.mark.parametrize("name", ENTRIES)
def test_any_number_of_tokens_in_chunks(name):
    model = decoder(name, in_chunks=True)
    if FORMS[name][2]:
        check(exported(model, CHUNKS).module(), model, CHUNKS)
    else:
        with pytest.raises(torch._dynamo.exc.UserError, match="Constraints violated"):
            exported(model, CHUNKS)


@runtime
@pytest.mark.full
@pytest.mark.parametrize(
    "name, lengths",
    [
        *(pytest.param(name, STEP, id=f"{name}-step") for name in ENTRIES),
        *(pytest.param(name, LOOP, id=f"{name}-loop") for name in ENTRIES if FORMS[name][1]),
    ],
)
def test_onnx_runtime(name, lengths):
    model = decoder(name)
    program = exported(model, lengths)
    if FORMS[name][1] and (lengths == STEP or name not in WITHOUT_ONNX_LOOP):
        check(in_onnx_runtime(model, program), model, lengths)
    else:
        with pytest.raises(torch.onnx.errors.OnnxExporterError):
            in_onnx_runtime(model, program)


@runtime
@pytest.mark.full
def test_the_page_saves_graphs_that_continue_each_other(tmp_path, monkeypatch):
    from onnxruntime import InferenceSession

    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "export.md", "exec"), names)
    model, graphs = names["decoder"], {name: InferenceSession(f"{name}.onnx") for name in ("prompt", "step")}

    def call(*tensors):
        graph = graphs["step" if tensors[0].shape[1] == 1 else "prompt"]
        given = {name: x.numpy() for name, x in zip(model.input_names, tensors)}
        return [torch.from_numpy(x) for x in graph.run(None, given)]

    check(call, model, (5, 1, 1), batch=1)


def test_a_state_that_grows_needs_a_capacity():
    with pytest.raises(ValueError, match="The state of layer 1 grows with every token.*Give capacity"):
        ExportableDecoder(tiny(("gla", "softmax-attention")))


@torch.no_grad()
def test_the_number_of_rows_is_fixed():
    decoder, rows = ExportableDecoder(tiny("gated-deltanet")), torch.export.Dim("rows")
    states = decoder.initial_states(2)
    shapes = {"input_ids": {0: rows}, "states": tuple({0: rows} for _ in states)}
    with pytest.raises(ValueError, match="number of rows of a graph is fixed"):
        token = torch.zeros(2, 1, dtype=torch.int64)
        torch.export.export(decoder, (token, *states), dynamic_shapes=shapes, strict=False)


def test_calls_go_on_from_named_states_as_the_model_does():
    model, ids = ExportableDecoder(tiny(("gla", "gated-deltanet"), dtype=torch.float32)), tokens(3, 9)
    assert model.input_names[:3] == ["input_ids", "past.0.memory", "past.0.position"]
    assert model.output_names[:3] == ["logits", "present.0.memory", "present.0.position"]
    states, wanted = model.initial_states(3), model.model(ids, use_cache=True)
    for part in (ids[:, :5], ids[:, 5:6], ids[:, 6:]):
        logits, *states = model(part, *states)
    assert error(logits, wanted.logits[:, 6:]) <= FLOAT32
    named = dict(zip(model.names, states, strict=True))
    with pytest.raises(ValueError, match="This decoder has 7 states, got 6. Pass those of initial_states"):
        model(ids[:, :1], *states[1:])
    for layer, state in enumerate(wanted.past_key_values.states()):
        assert torch.equal(named[f"{layer}.position"], state.position)
        assert error(named[f"{layer}.memory"], state["memory"]) <= FLOAT32
