"""Other implementations, each a few lines around its own functions, which are imported when it is asked for.

transformers' functions are unwrapped: with flash-linear-attention or mamba-ssm installed it would call those, and what is timed here
is its torch path. The layouts are those in which its layers call them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from ttr.experiments.bench import ttt_dual_form
from ttr.experiments.bench.contestants import Call, Contestant, Tensors

MODELS = "transformers.models"


def missing(package: str, install: str, _: Tensors | None = None) -> str | None:
    """Why a package's functions cannot be called, as a sentence; None if they can."""
    return None if importlib.util.find_spec(package) else f"{package} is not installed. Use pip install {install}."


needs_transformers = functools.partial(missing, "transformers", "'test-time-regression[hf]'")


def torch_path(model: str, name: str) -> Callable[..., object]:
    """A function of transformers' ``model`` as it is without other packages."""
    return inspect.unwrap(getattr(importlib.import_module(f"{MODELS}.{model}.modeling_{model}"), name))


def delta_rule(model: str, name: str) -> Callable[[Tensors], Call]:
    """A function of transformers with the signature of a gated delta rule (query, key, value, g, beta)."""

    def prepared(x: Tensors) -> Call:
        function = torch_path(model, name)
        leaves = {each: x[each] for each in ("q", "k", "v", "log_decay", "step_size")}
        options = {"g": x["log_decay"], "beta": x["step_size"], "initial_state": None, "output_final_state": False}
        return Call(lambda: function(x["q"], x["k"], x["v"], **options)[0], leaves)

    return prepared


def _gated_delta_token(x: Tensors) -> Call:
    """One token after another; the state is what the last call returned, as the layer's cache keeps it."""
    function = torch_path("qwen3_next", "torch_recurrent_gated_delta_rule")
    state = x["memory"]

    def run() -> Tensor:
        nonlocal state
        y, state = function(x["q"], x["k"], x["v"], g=x["log_decay"], beta=x["step_size"], initial_state=state, output_final_state=True)
        return y

    return Call(run)


def _state_copy(x: Tensors) -> Call:
    """One read and one write of the state, the least that an update in place costs."""
    state = x["memory"].clone()
    return Call(lambda: state.mul_(1.0))


def _mamba2(x: Tensors) -> Call:
    """log_decay = A dt and the value comes multiplied by dt: with A the fixed log decay, dt is 1 and the function is the same."""
    scan = torch_path("mamba2", "mamba2_chunk_scan")
    rate = x["log_decay"][0, 0].detach()
    step = torch.ones_like(x["log_decay"]).requires_grad_(x["log_decay"].requires_grad)
    return Call(lambda: scan(x["v"], step, rate, x["k"], x["q"], chunk_size=256), {"q": x["q"], "k": x["k"], "v": x["v"], "dt": step})


def _minimax(x: Tensors, block: int = 256) -> Call:
    """Lightning attention (arXiv 2401.04658) as MiniMaxLightningAttention orders its operations, block by block, heads first, without
    its projections; the decays within a block are the module's own buffers, made once."""
    attention = importlib.import_module(f"{MODELS}.minimax.modeling_minimax").MiniMaxLightningAttention
    slope = -x["log_decay"].detach()[0, 0, :, None, None]
    settings = type("Settings", (), {"block_size": block})
    query_decay, key_decay, diagonal_decay = attention.decay_factors(settings, slope)

    def run() -> Tensor:
        outputs, memory = [], x["q"].new_zeros(*x["v"].shape[:1], x["v"].shape[2], x["k"].shape[3], x["v"].shape[3])
        streams = [x[name].transpose(1, 2) for name in "qkv"]
        for start in range(0, x["q"].shape[1], block):
            q, k, v = (stream[:, :, start : start + block] for stream in streams)
            size = q.shape[2]
            within = (q @ k.mT * diagonal_decay[:, :, :size, :size]) @ v
            outputs.append(q * query_decay[:, :size] @ memory + within)
            memory = memory * torch.exp(-slope * size) + (k * key_decay[:, -size:]).mT @ v
        return torch.cat(outputs, dim=2).transpose(1, 2)

    return Call(run, {name: x[name] for name in "qkv"})


def _attention(x: Tensors) -> Call:
    q, k, v = (x[name].transpose(1, 2) for name in "qkv")
    return Call(lambda: scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2), {name: x[name] for name in "qkv"})


def _convolution(x: Tensors) -> Call:
    """The layers keep [B,T,C], turn it to [B,C,T] for torch's convolution, and turn the result back."""
    function = torch_path("qwen3_next", "causal_conv1d_fn")
    past = x["weight"].shape[0] - 1
    v, weight = (tensor.detach().requires_grad_(tensor.requires_grad) for tensor in
                 (x["v"][:, past:].clone(), x["weight"].flatten(1).T.contiguous()))
    return Call(lambda: function(v.flatten(2).transpose(1, 2), weight, activation="silu").transpose(1, 2).unflatten(2, v.shape[2:]),
                {"tokens": v, "channels": weight})


def _gated_norm(x: Tensors) -> Call:
    """The layer's norm over the channels of a head, with the gate projected as ours is."""
    norm = importlib.import_module(f"{MODELS}.qwen3_next.modeling_qwen3_next").Qwen3NextRMSNormGated(x["gain"].shape[0], eps=1e-6)
    del norm.weight
    norm.weight = x["gain"]
    return Call(lambda: norm(x["y"], torch.einsum("btd,hvd->bthv", x["x"], x["weight"])), x)


def _ttt(layers: int) -> Callable[[Tensors], Call]:
    """The published dual form, transcribed."""

    def prepared(x: Tensors) -> Call:
        plain = {name.removeprefix("function."): tensor for name, tensor in x.items()}
        return Call(lambda: ttt_dual_form.ttt(plain, layers), x)

    return prepared


def _titans(x: Tensors, chunk: int = 16) -> Call:
    """NeuralMemory of titans-pytorch with its memory alone: in place of its projections stand slices of one input, so that queries, keys,
    values and gates are the case's. The same network and loss (its own has the exact GELU and a mean over channels), and ``batch_size`` the
    chunk, by which it takes gradients at the last boundary's weights. Its tokens read the weights of whole chunks: those at ends are compared."""
    module = importlib.import_module("titans_pytorch")
    heads, size = x["q"].shape[2:]

    class Network(module.MemoryMLP):
        def forward(self, key: Tensor) -> Tensor:
            first, second = self.weights
            return gelu(key @ first, approximate="tanh") @ second

    memory = module.NeuralMemory(dim=heads * size, dim_head=size, heads=heads, chunk_size=chunk, batch_size=chunk, pre_rmsnorm=False,
                                 model=Network(size, 2, 4.0), mem_model_norm_add_residual=False, adaptive_step_transform=lambda step: step,
                                 store_memory_loss_fn=lambda found, wanted: (found - wanted).square().sum(-1) / 2)
    memory.retrieve_gate, memory.combine_heads = None, torch.nn.Identity()
    parts = {"to_queries": heads * size, "to_keys": heads * size, "to_values": heads * size,
             "to_adaptive_step": heads, "to_decay_factor": heads, "to_momentum": heads}
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

    # its decay factor and momentum are sigmoids of these, a number per chunk
    kept = x["log_decay"].detach()[:, ::chunk].exp()
    forgotten = torch.log1p(-kept).sub(kept.log()).requires_grad_(x["q"].requires_grad)
    still = torch.full_like(forgotten, -200.0).requires_grad_(x["q"].requires_grad)

    def run() -> Tensor:
        per_token = [gate.repeat_interleave(chunk, dim=1)[:, : x["q"].shape[1]] for gate in (forgotten, still)]
        sequence = torch.cat([*(x[name].flatten(2) for name in "qkv"), x["step_size"], *per_token], dim=-1)
        return memory(sequence)[0].unflatten(-1, (heads, size))[:, chunk - 1 :: chunk]

    shared = {name: x[name] for name in ("q", "k", "v", "step_size", "function.w1", "function.w2")}
    return Call(run, shared | {"chunk_decay": forgotten, "chunk_momentum": still})


def _silu(x: Tensors) -> Call:
    return Call(lambda: torch.nn.functional.silu(x["v"]))


gated_delta = Contestant("qwen3-next", "peer", delta_rule("qwen3_next", "torch_chunk_gated_delta_rule"), needs_transformers)
gated_delta_token = Contestant("qwen3-next-recurrent", "peer", _gated_delta_token, needs_transformers)
kda = Contestant("kimi-linear", "peer", delta_rule("kimi_linear", "chunk_kimi_delta_attention"), needs_transformers)
kda_recurrent = Contestant("kimi-linear-recurrent", "peer", delta_rule("kimi_linear", "recurrent_kimi_delta_attention"), needs_transformers)
mamba2 = Contestant("mamba2", "peer", _mamba2, needs_transformers)
minimax = Contestant("minimax", "peer", _minimax, needs_transformers)
attention = Contestant("softmax-attention", "peer", _attention, compared=False)
convolution = Contestant("qwen3-next", "peer", _convolution, needs_transformers)
gated_norm = Contestant("qwen3-next", "peer", _gated_norm, needs_transformers)
ttt_linear = Contestant("ttt-lm-pytorch", "peer", _ttt(1))
ttt_mlp = Contestant("ttt-lm-pytorch", "peer", _ttt(2))
titans = Contestant("titans-pytorch", "peer", _titans, functools.partial(missing, "titans_pytorch", "titans-pytorch==0.5.5"))
state_copy = Contestant("state-copy", "floor", _state_copy, compared=False)
silu = Contestant("silu", "floor", _silu, compared=False)
