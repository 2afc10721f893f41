"""A decoder whose MLPs, embeddings and head are divided among two processes is that of one process: logits,
gradients, generation and what is saved."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ttr
from tests.decoders import HYBRID, tiny
from ttr.laws.tolerances import FLOAT64, error

pytestmark = pytest.mark.full
IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]]

BOTH = f"""
import sys, torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
torch.distributed.init_process_group("gloo")
ids, first = torch.tensor({IDS}), torch.distributed.get_rank() == 0

def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

def found(model):
    output = model(ids, labels=ids)
    output.loss.backward()
    gradients = {{name: whole(p.grad) for name, p in model.named_parameters()}}
    written = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    return {{"logits": output.logits.detach(), "written": written, **gradients}}

def local(model):
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
"""

BY_TRANSFORMERS = (
    BOTH
    + """
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto", dtype=torch.float64)
result = found(model) | {"numbers": torch.tensor(local(model))}
model.save_pretrained(sys.argv[2])
"""
)

BY_TORCH = (
    BOTH
    + """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
styles = {"colwise": ColwiseParallel(), "rowwise": RowwiseParallel()}
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64)
plan = {name: styles[style] for name, style in model.config.base_model_tp_plan.items()}
parallelize_module(model.model, init_device_mesh("cpu", (2,)), plan)
result = found(model) | {"numbers": torch.tensor(local(model))}
"""
)

END = """
if first:
    torch.save(result, sys.argv[3])
torch.distributed.barrier()
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A model, its folder, and what it computes in one process."""
    torch.manual_seed(0)
    model, folder = tiny(HYBRID, vocab_size=12, num_heads=[2, 4, 2]), tmp_path_factory.mktemp("alone")
    model.save_pretrained(folder)
    ids = torch.tensor(IDS)
    output = model(ids, labels=ids)
    output.loss.backward()
    written = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return model, folder, {"logits": output.logits.detach(), "written": written, **gradients}


@pytest.mark.parametrize(
    "program, divided", [(BY_TRANSFORMERS, (".mlp.", "embed", "head")), (BY_TORCH, (".mlp.",))]
)
def test_two_processes_are_one(alone, tmp_path, program, divided):
    model, folder, wanted = alone
    (tmp_path / "program.py").write_text(program + END)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    paths = [str(tmp_path / name) for name in ("program.py", "saved", "result.pt")]
    paths.insert(1, str(folder))
    environment = os.environ | {
        "PYTHONPATH": str(Path(ttr.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run([*launcher, *paths], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    got = torch.load(tmp_path / "result.pt", weights_only=True)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    shared = sum(size // 2 for name, size in sizes.items() if any(part in name for part in divided))
    assert got.pop("numbers") == sum(sizes.values()) - shared
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert error(got[name], tensor) <= FLOAT64, name
    if (tmp_path / "saved").exists():
        again = type(model).from_pretrained(tmp_path / "saved", dtype=torch.float64).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
