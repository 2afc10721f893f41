"""The memory of titans-pytorch, with the network and the loss of the case."""

from __future__ import annotations

import functools
import importlib

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ttr.experiments.bench.contestants import Call, Tensors


def titans(x: Tensors, chunk: int = 16) -> Call:
    """The memory of titans-pytorch's NeuralMemory. Its projections are replaced by slices of one input, so
    that queries, keys, values and gates are the case's. Network and loss are ours (its own have the exact
    GELU and a mean over channels), and ``batch_size`` is the chunk, so that gradients are taken at the
    weights of the last boundary. Its tokens read with the weights of whole chunks, so only the tokens at the
    ends of chunks are compared."""
    heads, size = x["q"].shape[2:]
    memory = _neural_memory(heads, size, chunk)
    parts = {
        "to_queries": heads * size,
        "to_keys": heads * size,
        "to_values": heads * size,
        "to_adaptive_step": heads,
        "to_decay_factor": heads,
        "to_momentum": heads,
    }
    shapes = {"to_adaptive_step": (-1,), "to_decay_factor": (-1, 1), "to_momentum": (-1, 1)}

    def part(name: str, sequence: Tensor) -> Tensor:
        found = sequence.split(list(parts.values()), dim=-1)[list(parts).index(name)]
        found = found.transpose(1, 2).flatten(0, 1).unflatten(1, shapes[name]) if name in shapes else found
        return found[None] if name == "to_momentum" else found

    for name in parts:
        delattr(memory, name)
        setattr(memory, name, functools.partial(part, name))
    del memory.memory_model_parameters
    memory.memory_model_parameters = [x["function.w1"], x["function.w2"]]

    # its decay factor and momentum are sigmoids of these, one number per chunk
    decay = x["log_decay"].detach()[:, ::chunk].exp()
    decay_logit = torch.log1p(-decay).sub(decay.log()).requires_grad_(x["q"].requires_grad)
    momentum_logit = torch.full_like(decay_logit, -200.0).requires_grad_(x["q"].requires_grad)

    def run() -> Tensor:
        per_token = [
            gate.repeat_interleave(chunk, dim=1)[:, : x["q"].shape[1]]
            for gate in (decay_logit, momentum_logit)
        ]
        sequence = torch.cat([*(x[name].flatten(2) for name in "qkv"), x["step_size"], *per_token], dim=-1)
        return memory(sequence)[0].unflatten(-1, (heads, size))[:, chunk - 1 :: chunk]

    shared = {name: x[name] for name in ("q", "k", "v", "step_size", "function.w1", "function.w2")}
    return Call(run, shared | {"chunk_decay": decay_logit, "chunk_momentum": momentum_logit})


def _neural_memory(heads: int, size: int, chunk: int) -> nn.Module:
    """Without what the case does not have around the memory."""
    module = importlib.import_module("titans_pytorch")

    class Network(module.MemoryMLP):
        def forward(self, key: Tensor) -> Tensor:
            first, second = self.weights
            return gelu(key @ first, approximate="tanh") @ second

    memory = module.NeuralMemory(
        dim=heads * size,
        dim_head=size,
        heads=heads,
        chunk_size=chunk,
        batch_size=chunk,
        pre_rmsnorm=False,
        model=Network(size, 2, 4.0),
        mem_model_norm_add_residual=False,
        adaptive_step_transform=lambda step: step,
        store_memory_loss_fn=lambda found, wanted: (found - wanted).square().sum(-1) / 2,
    )
    memory.retrieve_gate, memory.combine_heads = None, torch.nn.Identity()
    return memory
