"""Tensor parallelism: a decoder whose mixers, MLPs, embeddings and head are divided among two processes is
that of one process in logits, gradients, generation and what is saved."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import ttr
from tests.decoders import ENTRIES, HYBRID, tiny, tokens
from tests.shards import run
from ttr.distributed import SequenceShard, sequence_parallel
from ttr.laws.tolerances import FLOAT64, error
from ttr.layer.heads import divide_heads, undivided
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.qkv.replacements import QueryKeyFromValue
from ttr.layer.sizes import Sizes
from ttr.models import TTRForCausalLM
from ttr.weights import Alibi, LayerwiseDecay, MultiScale, Window

DIFFERING = ("gated-deltaproduct", "alibi-attention", "rfa", "rwkv7")
"""Several pairs per token and convolutions; decays by the number of a head; a buffer per head; a token shift
and low ranks."""

LACKING = "model.layers.0.mixer.gates.log_decay.up.weight"

WHOLE = {
    "RMSNorm(over='all'": ("mamba2", "hgrn2", "log-linear-attention", "hgrn"),
    "GatedRMSNorm(gate='sigmoid', over='all'": ("lightning-attention",),
    "LayerNorm(over='all'": ("ttt-linear", "ttt-mlp"),
    "QueryKeyFromValue()": ("mamba", "longhorn"),
    "RecurrentGate()": ("rg-lru",),
}
"""The layers that every process computes as a whole, by the reason."""

GROUPED_NORM = replace(
    ttr.catalogue["mamba2"],
    output=(*ttr.catalogue["mamba2"].output[:-1], GatedRMSNorm(over="group", gate_first=True)),
)
GROUPS = {
    "shared keys": ("gated-deltanet", {"num_heads": 2, "value_heads": 4}),
    "grouped queries": ("softmax-attention", {"key_heads": 2, "value_heads": 2}),
    "one key and value": ("softmax-attention", {"key_heads": 1, "value_heads": 1}),
    "one query and key": ("kda", {"num_heads": 1, "value_heads": 4, "key_size": 4, "value_size": 4}),
    "several pairs": ("deltaproduct", {"key_heads": 2}),
    "a norm of groups": (GROUPED_NORM, {"num_heads": 2, "value_heads": 4}),
    "slopes of three groups": ("alibi-attention", {"num_heads": 6, "hidden_size": 24}),
    "three heads": ("gated-deltanet", {"num_heads": 3, "hidden_size": 18}),
}


def decoder(memory, **settings):
    return tiny([memory] * 2, **{"num_heads": 4, "vocab_size": 12} | settings)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placements(tensor):
    return tensor.placements if isinstance(tensor, DTensor) else ()


def held(model):
    """The numbers of the mixers of a decoder that this process holds."""
    parameters = chain.from_iterable(block.mixer.parameters() for block in model.model.layers)
    return sum((x.to_local() if isinstance(x, DTensor) else x).numel() for x in parameters)


def share(model):
    """The numbers of its mixers that one of two processes should hold: as many as with half the heads."""
    mixer = model.model.layers[0].mixer
    if undivided(mixer.architecture, mixer.sizes, 2):
        return held(model)
    of_heads = {
        setting: max(getattr(mixer.sizes, name) // 2, 1)
        for setting, name in (
            ("num_heads", "query_heads"),
            ("key_heads", "key_heads"),
            ("value_heads", "value_heads"),
        )
    }
    sizes = {"key_size": mixer.sizes.key_size, "value_size": mixer.sizes.value_size}
    return held(decoder(mixer.architecture, hidden_size=mixer.sizes.d_model, **sizes, **of_heads))


def computed(model, ids):
    """What a decoder computes: logits, gradients, the tokens it writes with a cache, and their logits."""
    output = model(ids, labels=ids)
    output.loss.backward()
    written = model.generate(
        ids,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not any(placement.is_partial() for x in gradients.values() for placement in placements(x))
    gradients = {name: whole(x) for name, x in gradients.items()}
    later = torch.stack(written.logits)
    return {"logits": output.logits.detach(), "written": written.sequences, "later": later, **gradients}


def loaders(folder, mesh):
    """``from_pretrained`` of a folder, on one process or, with ``tp_plan="auto"``, on those of a mesh."""
    os.environ |= {"RANK": str(mesh.get_local_rank()), "WORLD_SIZE": str(mesh.size()), "LOCAL_RANK": "0"}
    return partial(TTRForCausalLM.from_pretrained, folder, dtype=torch.float64)


def of_decoder(folder, share, mesh):
    """The errors of a saved decoder that transformers divides, of whose mixers a process should hold so many
    numbers."""
    load = loaders(folder, mesh)
    alone, divided = load(), load(tp_plan="auto")
    ids = tokens(2, 6)
    wanted, got = computed(alone, ids), computed(divided, ids)
    assert got.keys() == wanted.keys()
    return {name: error(got[name], x) for name, x in wanted.items()} | {"held": abs(held(divided) - share)}


def of_failing_call(folder, mesh):
    """Whether a call that fails leaves a module with other parameters."""
    projection = loaders(folder, mesh)(tp_plan="auto").model.layers[0].mixer.q_proj
    weight = projection.weight
    with pytest.raises(RuntimeError):
        projection(torch.zeros(2, 3))
    return {"changed": float(projection.weight is not weight)}


def of_lacking(folder, mesh):
    """How far apart two processes draw the tensor that a folder lacks."""
    torch.manual_seed(mesh.get_local_rank())
    drawn = whole(loaders(folder, mesh)(tp_plan="auto").get_parameter(LACKING)).detach()
    first = drawn.clone()
    torch.distributed.broadcast(first, 0)
    return {"apart": error(drawn, first), "zero": float(not drawn.any())}


def of_sequences_and_heads(name, mesh):
    """The errors of a layer on four processes: two for each half of the sequences, half the heads each."""
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("sequence", "heads"))
    alone, divided = (ttr.nn.Mixer(16, ttr.catalogue[name], heads=4).double() for _ in range(2))
    divided.load_state_dict(alone.state_dict())
    assert divide_heads(divided, both["heads"]) is None
    x = torch.randn(2, 11, 16, dtype=torch.float64, requires_grad=True)
    y = alone(x)
    y.square().sum().backward()
    shard = SequenceShard.of(both["sequence"], 11)
    own = shard.cut(x).detach().clone().requires_grad_()
    with sequence_parallel(shard):
        part = divided(own)
        part.square().sum().backward()
    errors = {"output": error(part, shard.cut(y)), "input": error(own.grad, shard.cut(x.grad))}
    for (at, wanted), got in zip(alone.named_parameters(), divided.parameters(), strict=True):
        torch.distributed.all_reduce(got.grad.to_local(), group=both["sequence"].get_group())
        errors[at] = error(whole(got.grad), wanted.grad)
    return errors


def saved(folder, decoders):
    """What two processes compute with each of these decoders, by their names."""
    for name, model in decoders.items():
        model.save_pretrained(folder / name)
    return {name: partial(of_decoder, folder / name, share(model)) for name, model in decoders.items()}


def assert_exact(cases, processes=2):
    """No errors in any case."""
    found = run(processes, cases, imported="tests.decoders")
    wrong = {
        name: far
        for name, errors in found.items()
        if (far := {at: x for at, x in errors.items() if not x <= FLOAT64})
    }
    assert not wrong


def test_two_processes_are_one(tmp_path):
    decoders = {name: decoder(name) for name in DIFFERING}
    assert all(share(model) < 0.6 * held(model) for model in decoders.values())
    cases = saved(tmp_path, decoders)
    whole, lacks = tmp_path / "rwkv7", tmp_path / "lacks"
    shutil.copytree(whole, lacks)
    tensors = load_file(whole / "model.safetensors")
    del tensors[LACKING]
    save_file(tensors, lacks / "model.safetensors", metadata={"format": "pt"})
    assert_exact(cases | {"fails": partial(of_failing_call, whole), "lacks": partial(of_lacking, lacks)})


@pytest.mark.full
def test_every_memory_on_two_processes(tmp_path):
    assert_exact(saved(tmp_path, {name: decoder(name) for name in ENTRIES}))


@pytest.mark.full
def test_grouped_heads_on_two_processes(tmp_path):
    decoders = {name: decoder(memory, **settings) for name, (memory, settings) in GROUPS.items()}
    assert_exact(saved(tmp_path, decoders))


@pytest.mark.full
def test_sequences_and_heads_on_four_processes():
    names = ("gated-deltanet", "softmax-attention", "rwkv7", "retnet")
    assert_exact({name: partial(of_sequences_and_heads, name) for name in names}, processes=4)


def test_layers_that_stay_whole():
    sizes = Sizes(16, 4, 4, 4, 4, 4, 4, layer=1, layers=2)
    reasons = {name: undivided(ttr.catalogue[name], sizes, 2) for name in ENTRIES}
    expected = {name: word for word, names in WHOLE.items() for name in names}
    assert {name for name, reason in reasons.items() if reason} == expected.keys()
    assert all(word in reasons[name] for name, word in expected.items())


@pytest.mark.parametrize(
    "weights",
    [
        Alibi(),
        MultiScale(),
        MultiScale(last=9.0),
        LayerwiseDecay(),
        Alibi() * Window(3),
    ],
    ids=repr,
)
def test_fixed_decays_know_the_numbers_of_their_heads(weights):
    like = torch.zeros((), dtype=torch.float64)
    whole = weights.log_retention({}, {}, 6, like)
    for first in (0, 2, 4):
        share = weights.at_heads(first, 6).log_retention({}, {}, 2, like)
        assert torch.equal(share, whole[..., first : first + 2])
    with pytest.raises(ValueError, match="no 2 heads from number 5 on among 6"):
        weights.at_heads(5, 6).log_retention({}, {}, 2, like)


def test_heads_that_do_not_divide():
    entry = ttr.catalogue["gated-deltanet"]
    for processes, reason in ((2, None), (3, "3 processes cannot share 4 heads of values evenly.")):
        assert undivided(entry, Sizes(16, 1, 1, 4, 4, 4, 4), processes) == reason
    assert "2 heads of keys" in undivided(entry, Sizes(16, 4, 2, 4, 4, 4, 4), 4)
    many = Sizes(16, 512, 512, 512, 1, 1, 1)
    assert undivided(ttr.catalogue["rg-lru"], many, 2) is None
    assert "RecurrentGate" in undivided(ttr.catalogue["rg-lru"], many, 4)
    assert "1 heads" in undivided(entry, Sizes(16, 1, 1, 1, 4, 4, 4), 2)
    groups = Sizes(16, 2, 2, 4, 4, 4, 4)
    assert undivided(GROUPED_NORM, groups, 2) is None
    assert "GatedRMSNorm" in undivided(GROUPED_NORM, replace(groups, query_heads=1, key_heads=1), 2)


def test_what_cannot_be_divided_is_refused(monkeypatch):
    mixer = ttr.nn.Mixer(8, ttr.catalogue["mamba"], heads=4)
    with pytest.raises(ValueError, match=r'Use mesh\["tp"\]'):
        divide_heads(mixer, SimpleNamespace(ndim=2))
    monkeypatch.setattr(QueryKeyFromValue, "head_groups", lambda self, sizes: sizes.heads)
    monkeypatch.setattr("ttr.layer.qkv.time_steps.LowRankTimeStep.head_groups", lambda self, sizes: 4)
    before = dict(mixer.named_parameters())
    with pytest.raises(ValueError, match="let its head_groups say so"):
        divide_heads(mixer, SimpleNamespace(ndim=1, size=lambda: 2))
    assert all(before[name] is x for name, x in mixer.named_parameters()) and mixer.head_shard is None


IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]]

BEGIN = f"""
import sys, torch
from transformers import AutoModelForCausalLM
torch.distributed.init_process_group("gloo")
from tests.test_tensor_parallel import computed, held
ids = torch.tensor({IDS})
"""

BY_TRANSFORMERS = """
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto", dtype=torch.float64)
result = computed(model, ids) | {"held": torch.tensor(held(model))}
model.save_pretrained(sys.argv[2])
"""

BY_TORCH = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from ttr.layer.heads import divide_heads
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64)
mesh = init_device_mesh("cpu", (2,))
for block in model.model.layers:
    plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
    parallelize_module(block.mlp, mesh, plan)
    assert divide_heads(block.mixer, mesh) is None
result = computed(model, ids) | {"held": torch.tensor(held(model))}
"""

END = """
if torch.distributed.get_rank() == 0:
    torch.save(result, sys.argv[3])
torch.distributed.barrier()
"""


@pytest.mark.full
@pytest.mark.parametrize("program", [BY_TRANSFORMERS, BY_TORCH])
def test_programs_under_torchrun(tmp_path, program):
    torch.manual_seed(0)
    model = tiny((*HYBRID, "deltaproduct"), vocab_size=12, num_heads=[2, 4, 2, 4])
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "program.py").write_text(BEGIN + program + END)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    paths = [str(tmp_path / name) for name in ("program.py", "model", "saved", "result.pt")]
    source = Path(ttr.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(source), str(Path(__file__).parents[1]))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run([*launcher, *paths], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    got = torch.load(tmp_path / "result.pt", weights_only=True)
    assert got.pop("held") < 0.55 * held(model)
    wanted = computed(model, torch.tensor(IDS))
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert error(got[name], tensor) <= FLOAT64, name
    if (tmp_path / "saved").exists():
        again = type(model).from_pretrained(tmp_path / "saved", dtype=torch.float64).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
