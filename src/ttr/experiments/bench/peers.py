"""Other implementations: thin wrappers around functions of their packages, which are imported on use.

Functions of transformers are unwrapped: with flash-linear-attention or mamba-ssm installed it would call
those, and the torch path is what is timed here. The layouts are those in which its layers call them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ttr.experiments.bench import titans_memory, ttt_dual_form
from ttr.experiments.bench.contestants import Call, Contestant, Tensors

MODELS = "transformers.models"


def missing(package: str, install: str, _: Tensors | None = None) -> str | None:
    """Why a package's functions cannot be called, as a sentence; None if they can."""
    return (
        None
        if importlib.util.find_spec(package)
        else (f"{package} is not installed. Use pip install {install}.")
    )


needs_transformers = functools.partial(missing, "transformers", "'test-time-regression[hf]'")


FLA = "flash-linear-attention==0.6.0"


def fla_folder() -> Path:
    """The folder of flash-linear-attention outside the environment, as in the parity tests: if it were
    installed, it would change what transformers runs."""
    return Path(os.environ.get("TTR_PARITY") or ".parity")


def needs_fla(_: Tensors | None = None) -> str | None:
    """Why the files of flash-linear-attention cannot be run, as a sentence; None if they can."""
    if all((fla_folder() / name).exists() for name in ("fla", "einops")):
        return None
    return (
        f"{FLA} is not in the folder {fla_folder()}. Use pip install --no-deps --target {fla_folder()} "
        f"{FLA} fla-core==0.6.0 einops==0.8.2, "
        "or name its folder in TTR_PARITY."
    )


@functools.cache
def fla_file(path: str) -> ModuleType:
    """A file of flash-linear-attention that needs only torch and einops; the package itself, which needs a
    GPU compiler, is not imported."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, fla_folder() / "fla" / path)
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(fla_folder()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(fla_folder()))
    return module


def torch_path(model: str, name: str) -> Callable[..., object]:
    """A function of transformers' ``model``, as it runs without optional packages."""
    return inspect.unwrap(getattr(importlib.import_module(f"{MODELS}.{model}.modeling_{model}"), name))


def delta_rule(model: str, name: str) -> Callable[[Tensors], Call]:
    """A function of transformers with the signature of a gated delta rule (query, key, value, g, beta)."""

    def prepared(x: Tensors) -> Call:
        function = torch_path(model, name)
        leaves = {each: x[each] for each in ("q", "k", "v", "log_decay", "step_size")}
        options = {
            "g": x["log_decay"],
            "beta": x["step_size"],
            "initial_state": None,
            "output_final_state": False,
        }
        return Call(lambda: function(x["q"], x["k"], x["v"], **options)[0], leaves)

    return prepared


def _gated_delta_token(x: Tensors) -> Call:
    """Decoding token by token from the state that the last call returned, as the layer's cache stores it."""
    function = torch_path("qwen3_next", "torch_recurrent_gated_delta_rule")
    state = x["memory"]

    def run() -> Tensor:
        nonlocal state
        y, state = function(
            x["q"],
            x["k"],
            x["v"],
            g=x["log_decay"],
            beta=x["step_size"],
            initial_state=state,
            output_final_state=True,
        )
        return y

    return Call(run)


def _state_copy(x: Tensors) -> Call:
    """One read and one write of the state: a lower bound on an update in place."""
    state = x["memory"].clone()
    return Call(lambda: state.mul_(1.0))


def _mamba2(x: Tensors) -> Call:
    """There log_decay = A dt, and the value is multiplied by dt. With A the fixed log decay and dt = 1 the
    function is the same."""
    scan = torch_path("mamba2", "mamba2_chunk_scan")
    rate = x["log_decay"][0, 0].detach()
    step = torch.ones_like(x["log_decay"]).requires_grad_(x["log_decay"].requires_grad)
    return Call(
        lambda: scan(x["v"], step, rate, x["k"], x["q"], chunk_size=256),
        {"q": x["q"], "k": x["k"], "v": x["v"], "dt": step},
    )


def _minimax(x: Tensors, block: int = 256) -> Call:
    """Lightning attention (arXiv 2401.04658) with the operations of MiniMaxLightningAttention in their order,
    block by block, heads first, without its projections; the decays within a block are buffers of the module,
    computed once."""
    attention = importlib.import_module(f"{MODELS}.minimax.modeling_minimax").MiniMaxLightningAttention
    slope = -x["log_decay"].detach()[0, 0, :, None, None]
    settings = type("Settings", (), {"block_size": block})
    query_decay, key_decay, diagonal_decay = attention.decay_factors(settings, slope)

    def run() -> Tensor:
        outputs, memory = (
            [],
            x["q"].new_zeros(*x["v"].shape[:1], x["v"].shape[2], x["k"].shape[3], x["v"].shape[3]),
        )
        streams = [x[name].transpose(1, 2) for name in "qkv"]
        for start in range(0, x["q"].shape[1], block):
            q, k, v = (stream[:, :, start : start + block] for stream in streams)
            size = q.shape[2]
            within = (q @ k.mT * diagonal_decay[:, :, :size, :size]) @ v
            outputs.append(q * query_decay[:, :size] @ memory + within)
            memory = memory * torch.exp(-slope * size) + (k * key_decay[:, -size:]).mT @ v
        return torch.cat(outputs, dim=2).transpose(1, 2)

    return Call(run, {name: x[name] for name in "qkv"})


def _mesanet(x: Tensors, chunk: int = 64, iterations: int = 30) -> Call:
    """Conjugate gradient without a preconditioner or a stop. It adds 1e-5 to the denominators of its steps,
    so that they end at a residual of about 1e-3; with queries 1000 times larger and outputs 1000 times
    smaller it solves the same systems to full accuracy."""
    function = fla_file("ops/mesa_net/naive.py").naive_mesa_net_CG
    names = ("q", "k", "v", "log_decay", "log_importance", "ridge")
    time = x["q"].shape[1]

    def padded(tensor: Tensor) -> Tensor:
        return pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, -time % chunk)) if time % chunk else tensor

    def run() -> Tensor:
        q, k, v, log_decay, importance = (
            padded(t) for t in (1e3 * x["q"], x["k"], x["v"], x["log_decay"], x["log_importance"].exp())
        )
        return function(q, k, v, log_decay, x["ridge"], importance, chunk, iterations)[0][:, :time] / 1e3

    return Call(run, {name: x[name] for name in names})


def _attention(x: Tensors) -> Call:
    q, k, v = (x[name].transpose(1, 2) for name in "qkv")
    return Call(
        lambda: scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2),
        {name: x[name] for name in "qkv"},
    )


def unit_norm_attention(scale: float) -> Contestant:
    """torch's attention of queries and keys divided by their norms."""

    def prepared(x: Tensors) -> Call:
        def run() -> Tensor:
            q, k = (torch.nn.functional.normalize(x[name], dim=-1).transpose(1, 2) for name in "qk")
            return scaled_dot_product_attention(
                q, k, x["v"].transpose(1, 2), is_causal=True, scale=scale
            ).transpose(1, 2)

        return Call(run, {name: x[name] for name in "qkv"})

    return Contestant("sdpa-normalized", "peer", prepared)


MOST_MASKED = 2048
"""The largest T at which a mask of T x T per head, its gradient and the scores fit into memory beside other
processes."""


def masked_attention(bias: Callable[[Tensors], Tensor]) -> Contestant:
    """torch's attention with a bias [#B,#H,T,T] as a mask, computed in every call, as in a layer without a
    special kernel."""

    def prepared(x: Tensors) -> Call:
        q, k, v = (x[name].transpose(1, 2) for name in "qkv")

        def run() -> Tensor:
            mask = bias(x)
            future = torch.ones(mask.shape[-2:], dtype=torch.bool).triu(1)
            return scaled_dot_product_attention(
                q, k, v, attn_mask=mask.masked_fill(future, -torch.inf)
            ).transpose(1, 2)

        return Call(run, {name: tensor for name, tensor in x.items() if name in ("q", "k", "v", "log_decay")})

    def missing(x: Tensors | None) -> str | None:
        return (
            None
            if x is None or x["q"].shape[1] <= MOST_MASKED
            else (f"Its mask of T x T is limited to {MOST_MASKED} tokens. Use shorter sequences.")
        )

    return Contestant("sdpa-masked", "peer", prepared, missing)


def forget_bias(x: Tensors) -> Tensor:
    """c_t - c_j for the running sums c of the log decay (arXiv 2503.02130)."""
    total = x["log_decay"].transpose(1, 2).cumsum(-1)
    return total[..., None] - total[..., None, :]


def alibi_bias(x: Tensors) -> Tensor:
    """-m_h (t - j), m_h = 2^(-8 h / H), h = 1..H, H a power of two (arXiv 2108.12409)."""
    _, time, heads, _ = x["q"].shape
    place = torch.arange(time)
    return 2.0 ** (-8 / heads * torch.arange(1, heads + 1))[:, None, None] * (place - place[:, None])


def window_bias(x: Tensors, width: int) -> Tensor:
    """-inf for tokens that are not among the newest ``width``."""
    place = torch.arange(x["q"].shape[1])
    return torch.where(place[:, None] - place < width, 0.0, -torch.inf)


def _line_by_lapack(x: Tensors, projection: str | None = None) -> Call:
    """Local linear attention computed directly: all weights, all covariances, LAPACK for every token."""
    names = ("q", "k", "v", "ridge", *filter(None, [projection]))

    def run() -> Tensor:
        q, k, v = (x[name].transpose(1, 2) for name in "qkv")
        future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        p = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1)
        q, k = (q, k) if projection is None else (each @ x[projection].mT for each in (q, k))
        mean = p @ k
        second = (p @ (k[..., :, None] * k[..., None, :]).flatten(-2)).unflatten(-1, (k.shape[-1], -1))
        covariance = second - mean[..., :, None] * mean[..., None, :] + torch.diag_embed(x["ridge"])[:, None]
        slope = torch.linalg.solve(covariance, mean - q)
        return (p * (1 - (slope @ k.mT - (slope * mean).sum(-1, keepdim=True))) @ v).transpose(1, 2)

    return Call(run, {name: x[name] for name in names})


def _convolution(x: Tensors) -> Call:
    """The layers hold [B,T,C], transpose it to [B,C,T] for torch's convolution, and transpose the result
    back."""
    function = torch_path("qwen3_next", "causal_conv1d_fn")
    past = x["weight"].shape[0] - 1
    v, weight = (
        tensor.detach().requires_grad_(tensor.requires_grad)
        for tensor in (x["v"][:, past:].clone(), x["weight"].flatten(1).T.contiguous())
    )
    return Call(
        lambda: (
            function(v.flatten(2).transpose(1, 2), weight, activation="silu")
            .transpose(1, 2)
            .unflatten(2, v.shape[2:])
        ),
        {"tokens": v, "channels": weight},
    )


def _gated_norm(x: Tensors) -> Call:
    """The layer's norm over the channels of a head, with the same projection of the gate as ours."""
    norm = importlib.import_module(f"{MODELS}.qwen3_next.modeling_qwen3_next").Qwen3NextRMSNormGated(
        x["gain"].shape[0], eps=1e-6
    )
    del norm.weight
    norm.weight = x["gain"]
    return Call(lambda: norm(x["y"], torch.einsum("btd,hvd->bthv", x["x"], x["weight"])), x)


def _ttt(layers: int) -> Callable[[Tensors], Call]:
    """The published dual form, transcribed."""

    def prepared(x: Tensors) -> Call:
        plain = {name.removeprefix("function."): tensor for name, tensor in x.items()}
        return Call(lambda: ttt_dual_form.ttt(plain, layers), x)

    return prepared


def _silu(x: Tensors) -> Call:
    return Call(lambda: torch.nn.functional.silu(x["v"]))


def fla(function: str, scale: float | None = None, **names: str) -> Contestant:
    """A chunked function of flash-linear-attention (Triton), forward, on the first GPU, with its inputs moved
    there beforehand; elapsed time includes the wait for the GPU. ``names`` maps the controls to the names of
    its arguments; ``scale``, that of the queries, is K^-1/2 unless given. Its float32 products may be rounded
    to TF32, so its outputs are not compared."""

    def prepared(x: Tensors) -> Call:
        chunked = getattr(importlib.import_module("fla.ops"), function)
        given = {
            argument: x[name].to("cuda")
            for argument, name in ({each: each for each in "qkv"} | names).items()
        }

        def run() -> Tensor:
            y, _ = chunked(**given, scale=scale)
            torch.cuda.synchronize()
            return y

        return Call(run)

    def absent(_: Tensors | None) -> str | None:
        if not torch.cuda.is_available():
            return (
                "flash-linear-attention runs on a GPU, and torch sees none. Run it where "
                "torch.cuda.is_available()."
            )
        return (
            None
            if importlib.util.find_spec("fla")
            else ("fla is not installed. Use pip install flash-linear-attention.")
        )

    return Contestant(f"fla-{function}", "peer", prepared, absent, compared=False)


fla_additive = fla("chunk_simple_gla", scale=1.0, g="log_decay")
fla_gated_delta = fla("chunk_gated_delta_rule", g="log_decay", beta="step_size")
fla_kda = fla("chunk_kda", g="log_decay", beta="step_size")
gated_delta = Contestant(
    "qwen3-next", "peer", delta_rule("qwen3_next", "torch_chunk_gated_delta_rule"), needs_transformers
)
gated_delta_token = Contestant("qwen3-next-recurrent", "peer", _gated_delta_token, needs_transformers)
kda = Contestant(
    "kimi-linear", "peer", delta_rule("kimi_linear", "chunk_kimi_delta_attention"), needs_transformers
)
kda_recurrent = Contestant(
    "kimi-linear-recurrent",
    "peer",
    delta_rule("kimi_linear", "recurrent_kimi_delta_attention"),
    needs_transformers,
)
mamba2 = Contestant("mamba2", "peer", _mamba2, needs_transformers)
minimax = Contestant("minimax", "peer", _minimax, needs_transformers)
mesanet = Contestant("fla-naive-cg30", "peer", _mesanet, needs_fla)
attention = Contestant("softmax-attention", "peer", _attention, compared=False)
line_by_lapack = Contestant("lapack", "peer", _line_by_lapack)
low_rank_line_by_lapack = Contestant(
    "lapack", "peer", functools.partial(_line_by_lapack, projection="function.projection")
)
convolution = Contestant("qwen3-next", "peer", _convolution, needs_transformers)
gated_norm = Contestant("qwen3-next", "peer", _gated_norm, needs_transformers)
ttt_linear = Contestant("ttt-lm-pytorch", "peer", _ttt(1))
ttt_mlp = Contestant("ttt-lm-pytorch", "peer", _ttt(2))
titans = Contestant(
    "titans-pytorch",
    "peer",
    titans_memory.titans,
    functools.partial(missing, "titans_pytorch", "titans-pytorch==0.5.5"),
)
state_copy = Contestant("state-copy", "floor", _state_copy, compared=False)
silu = Contestant("silu", "floor", _silu, compared=False)
