"""Published layers by their own recurrences, each a few lines beside its formula, token by token: what a
``Problem`` is compared with.

A call's tensors are [B,T,...] of one head: queries, keys and values, and gates, of which each layer takes
those that it has. Nothing here comes from the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

Call = Mapping[str, Tensor]
"""The tensors of a call, by name."""

CHUNK = 16
"""Tokens of a mini-batch."""

MANY = 1e14
"""A ridge so large that the inverse of a matrix with it is that of the ridge alone."""


def _tokens(call: Call) -> Iterator[dict[str, Tensor]]:
    """The tensors of each token; the ridge is the same for all."""
    for t in range(call["q"].shape[1]):
        yield {name: x[:, t] for name, x in call.items() if name != "ridge"}


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left[..., :, None] * right[..., None, :]


def _times(memory: Tensor, key: Tensor) -> Tensor:
    """S^T k."""
    return torch.einsum("bkv,bk->bv", memory, key)


def _empty(call: Call) -> Tensor:
    return call["v"].new_zeros(call["v"].shape[0], call["k"].shape[-1], call["v"].shape[-1])


def _sums(call: Call, kept: Callable[[dict[str, Tensor]], Tensor | float]) -> Tensor:
    """S_t = kept_t * S_{t-1} + k_t v_t^T, y_t = S_t^T q_t."""
    memory, read = _empty(call), []
    for token in _tokens(call):
        memory = kept(token) * memory + _outer(token["k"], token["v"])
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def linear_attention(call: Call) -> Tensor:
    """S_t = S_{t-1} + k_t v_t^T (arXiv 2006.16236)."""
    return _sums(call, lambda token: 1.0)


def retention(call: Call) -> Tensor:
    """S_t = (1 - 2^-5) S_{t-1} + k_t v_t^T (RetNet, arXiv 2307.08621, its first head)."""
    return _sums(call, lambda token: 1 - 2.0**-5)


def mamba2(call: Call) -> Tensor:
    """S_t = a_t S_{t-1} + k_t v_t^T, one decay per token (Mamba-2, arXiv 2405.21060, with B, C and dt x for
    k, q and v)."""
    return _sums(call, lambda token: token["log_decay"].exp()[..., None, None])


def gated_linear_attention(call: Call) -> Tensor:
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T, one decay per key channel (GLA, arXiv 2312.06635)."""
    return _sums(call, lambda token: token["log_decays"].exp()[..., None])


def normalised_linear_attention(call: Call) -> Tensor:
    """y_t = S_t^T phi(q_t) / (z_t.phi(q_t)), z_t = z_{t-1} + phi(k_t), phi = 1 + elu (arXiv 2006.16236)."""
    phi = {name: 1 + torch.nn.functional.elu(call[name]) for name in "qk"}
    totals = linear_attention({**phi, "v": torch.ones_like(call["v"][..., :1])})
    return linear_attention({**phi, "v": call["v"]}) / totals


def mesa(call: Call) -> Tensor:
    """P_t = P - (P k)(P k)^T / (1 + k^T P k), P_0 = I / ridge, y_t = U_t^T P_t q_t (arXiv 2309.05858)."""
    inverse, memory, read = _prior(call), _empty(call), []
    for token in _tokens(call):
        key = _times(inverse, token["k"])
        inverse = inverse - _outer(key, key) / (1 + (token["k"] * key).sum(-1))[..., None, None]
        memory = memory + _outer(token["k"], token["v"])
        read.append(_times(memory, _times(inverse, token["q"])))
    return torch.stack(read, dim=1)


def mesanet(call: Call) -> Tensor:
    """H_t = a_t H + w_t k k^T, U_t = a_t U + w_t k v^T, y_t = U_t^T (H_t + ridge I)^-1 q_t (arXiv
    2506.05233)."""
    memory, ridge, read = _empty(call), call["ridge"] * torch.eye(call["k"].shape[-1]).to(call["k"]), []
    gram = memory.new_zeros(memory.shape[0], *ridge.shape)
    for token in _tokens(call):
        kept, weight = (token[name].exp()[..., None, None] for name in ("log_decay", "log_importance"))
        memory = kept * memory + weight * _outer(token["k"], token["v"])
        gram = kept * gram + weight * _outer(token["k"], token["k"])
        read.append(_times(memory, torch.linalg.solve(gram + ridge, token["q"])))
    return torch.stack(read, dim=1)


def _corrected(call: Call, kept: Callable[[dict[str, Tensor]], Tensor | float]) -> Tensor:
    """S' = kept_t * S_{t-1}, S_t = S' + step_t k_t (v_t - S'^T k_t)^T: the delta rule at the decayed
    memory."""
    memory, read = _empty(call), []
    for token in _tokens(call):
        memory = kept(token) * memory
        error = token["step_size"][..., None] * (token["v"] - _times(memory, token["k"]))
        memory = memory + _outer(token["k"], error)
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def deltanet(call: Call) -> Tensor:
    """S_t = S_{t-1} + step_t k_t (v_t - S_{t-1}^T k_t)^T (arXiv 2406.06484)."""
    return _corrected(call, lambda token: 1.0)


def gated_deltanet(call: Call) -> Tensor:
    """The delta rule after S' = a_t S_{t-1} (arXiv 2412.06464)."""
    return _corrected(call, lambda token: token["log_decay"].exp()[..., None, None])


def kimi_delta_attention(call: Call) -> Tensor:
    """The delta rule after S' = diag(a_t) S_{t-1} (Kimi Delta Attention, arXiv 2510.26692)."""
    return _corrected(call, lambda token: token["log_decays"].exp()[..., None])


def longhorn(call: Call) -> Tensor:
    """S_t = argmin ||S - S_{t-1}||^2 + step_t ||v_t - S^T k_t||^2, by its normal equations (I + step k k^T) S
    = S_{t-1} + step k v^T (arXiv 2407.14207; the released code keeps only the diagonal of k k^T)."""
    memory, one, read = _empty(call), torch.eye(call["k"].shape[-1]).to(call["k"]), []
    for token in _tokens(call):
        key = token["step_size"][..., None] * token["k"]
        memory = torch.linalg.solve(one + _outer(key, token["k"]), memory + _outer(key, token["v"]))
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def deltaproduct(call: Call) -> Tensor:
    """The delta rule on two pairs of a token, one after the other (arXiv 2502.10297)."""
    memory, read = _empty({**call, "k": call["pair_keys"], "v": call["pair_values"]}), []
    for token in _tokens(call):
        for key, value, step in zip(
            *(token[name].unbind(1) for name in ("pair_keys", "pair_values", "pair_steps")), strict=True
        ):
            memory = memory + _outer(key, step[..., None] * (value - _times(memory, key)))
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def titans(call: Call) -> Tensor:
    """Z_t = eta_t Z_{t-1} + step_t k_t (v_t - S_{t-1}^T k_t)^T, S_t = a_t S_{t-1} + Z_t (Titans with a matrix
    for a memory, arXiv 2501.00663): gradients at the old, not the decayed memory."""
    memory, momentum, read = _empty(call), _empty(call), []
    for token in _tokens(call):
        eta, step, kept = (token[name][..., None] for name in ("momentum", "step_size", "log_decay"))
        error = step * (token["v"] - _times(memory, token["k"]))
        momentum = eta[..., None] * momentum + _outer(token["k"], error)
        memory = kept.exp()[..., None] * memory + momentum
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def ttt(call: Call) -> Tensor:
    """S_t = S_{t-1} + step_t k_t (v_t - S_b^T k_t)^T with S_b the memory before the token's mini-batch
    (TTT-Linear, arXiv 2407.04620, without its layer norm)."""
    memory, before, read = _empty(call), _empty(call), []
    for t, token in enumerate(_tokens(call)):
        before = memory if t % CHUNK == 0 else before
        error = token["step_size"][..., None] * (token["v"] - _times(before, token["k"]))
        memory = memory + _outer(token["k"], error)
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def _smoothed(call: Call, log_kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """y_t = sum_{i<=t} kappa(q_t, k_i) v_i / sum_{i<=t} kappa(q_t, k_i)."""
    read = []
    for t in range(call["q"].shape[1]):
        kernel = log_kernel(call["q"][:, t, None], call["k"][:, : t + 1]).exp()
        read.append((kernel[..., None] * call["v"][:, : t + 1]).sum(1) / kernel.sum(1, keepdim=True))
    return torch.stack(read, dim=1)


def softmax_attention(call: Call) -> Tensor:
    """y_t = sum_{i<=t} e^{q_t.k_i / sqrt(K)} v_i / sum_{i<=t} e^{q_t.k_i / sqrt(K)} (arXiv 1706.03762)."""
    size = call["k"].shape[-1]
    return _smoothed(call, lambda query, key: (query * key).sum(-1) / size**0.5)


def nadaraya_watson(call: Call) -> Tensor:
    """The smoother of Nadaraya and Watson with a Gaussian kernel of bandwidth 1/2 on unit queries and
    keys."""
    unit = {name: torch.nn.functional.normalize(call[name], dim=-1) for name in "qk"} | {"v": call["v"]}
    return _smoothed(unit, lambda query, key: -(query - key).square().sum(-1) / (2 * 0.5**2))


def forgetting_attention(call: Call) -> Tensor:
    """Softmax attention with the logits q.k_i / sqrt(K) + sum_{i<j<=t} log a_j (arXiv 2503.02130)."""
    size, total = call["k"].shape[-1], call["log_decay"].cumsum(1)
    read = []
    for t in range(call["q"].shape[1]):
        logits = torch.einsum("bk,bik->bi", call["q"][:, t], call["k"][:, : t + 1]) / size**0.5
        share = torch.softmax(logits + total[:, t, None] - total[:, : t + 1], dim=-1)
        read.append((share[..., None] * call["v"][:, : t + 1]).sum(1))
    return torch.stack(read, dim=1)


def local_linear_attention(call: Call) -> Tensor:
    """y = b of min sum_i p_i ||v_i - b - M (k_i - q)||^2 + ridge ||M||^2, p the softmax, by a QR of the rows
    sqrt(p_i) [1, k_i - q] above sqrt(ridge) [0, I] (arXiv 2510.01450)."""
    size, read = call["k"].shape[-1], []
    penalty = pad(call["ridge"].sqrt() * torch.eye(size).to(call["k"]), (1, 0))
    for t in range(call["q"].shape[1]):
        query, keys, values = call["q"][:, t], call["k"][:, : t + 1], call["v"][:, : t + 1]
        root = torch.softmax((keys @ query[..., None])[..., 0] / size**0.5, dim=-1).sqrt()[..., None]
        rows = torch.cat(
            [root * pad(keys - query[:, None], (1, 0), value=1.0), penalty.expand(len(keys), -1, -1)], 1
        )
        q, r = torch.linalg.qr(rows)
        right = q.mT @ pad(root * values, (0, 0, 0, size))
        read.append(torch.linalg.solve_triangular(r, right, upper=True)[:, 0])
    return torch.stack(read, dim=1)


def kernel_regression(call: Call) -> Tensor:
    """y_t = kappa(q_t, K) (kappa(K, K) + ridge I)^-1 V with kappa = e^{q.k / sqrt(K)} (kernelised Intention,
    arXiv 2305.10203)."""
    root, read = call["k"].shape[-1] ** 0.5, []
    for t in range(call["q"].shape[1]):
        query, keys, values = call["q"][:, t, None], call["k"][:, : t + 1], call["v"][:, : t + 1]
        matrix = (keys @ keys.mT / root).exp() + call["ridge"] * torch.eye(t + 1).to(keys)
        read.append(((query @ keys.mT / root).exp() @ torch.linalg.solve(matrix, values))[:, 0])
    return torch.stack(read, dim=1)


def unnormalised_softmax(call: Call) -> Tensor:
    """y_t = sum_{i<=t} e^{q_t.k_i / sqrt(K)} v_i / ridge: kernel regression with the matrix of the keys
    dropped from the inverse."""
    scores = (call["q"] @ call["k"].mT / call["k"].shape[-1] ** 0.5).exp().tril()
    return scores @ call["v"] / MANY


def recursive_least_squares(call: Call) -> Tensor:
    """P' = P_{t-1} / a_t, g_t = P' k_t / (1 + k_t^T P' k_t), P_t = P' - g_t (P' k_t)^T, S_t = S_{t-1} + g_t
    (v_t - S_{t-1}^T k_t)^T, P_0 = I / ridge (Sherman and Morrison): a pair has the weight prod a_j of the
    tokens after it, and the ridge that of all."""
    inverse, memory, read = _prior(call), _empty(call), []
    for token in _tokens(call):
        inverse = inverse / token["fixed_decay"].exp()[..., None, None]
        key = _times(inverse, token["k"])
        gain = key / (1 + (token["k"] * key).sum(-1, keepdim=True))
        inverse = inverse - _outer(gain, key)
        memory = memory + _outer(gain, token["v"] - _times(memory, token["k"]))
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def undecayed_least_squares(call: Call) -> Tensor:
    """The same with a_t = 1."""
    return recursive_least_squares({**call, "fixed_decay": torch.zeros_like(call["fixed_decay"])})


def preconditioned_delta_rule(call: Call) -> Tensor:
    """S_t = S_{t-1} + P_t k_t (v_t - S_{t-1}^T k_t)^T with P_t = (sum_{i<=t} k_i k_i^T + ridge I)^-1,
    inverted afresh for every token (arXiv 2604.21100)."""
    memory, read = _empty(call), []
    for token in _tokens({**call, "inverse": _inverses(call)}):
        error = token["v"] - _times(memory, token["k"])
        memory = memory + _outer(_times(token["inverse"], token["k"]), error)
        read.append(_times(memory, token["q"]))
    return torch.stack(read, dim=1)


def preconditioned_linear_attention(call: Call) -> Tensor:
    """Linear attention of the queries P_t q_t, with P_t as above (arXiv 2604.21100)."""
    queries = torch.einsum("btkl,btl->btk", _inverses(call), call["q"])
    return linear_attention({"q": queries, "k": call["k"], "v": call["v"]})


def _prior(call: Call) -> Tensor:
    """I / ridge."""
    size = call["k"].shape[-1]
    return torch.eye(size).to(call["k"]).expand(call["k"].shape[0], size, size) / call["ridge"]


def _inverses(call: Call) -> Tensor:
    """(sum_{i<=t} k_i k_i^T + ridge I)^-1 of all tokens."""
    one = torch.eye(call["k"].shape[-1]).to(call["k"])
    return torch.linalg.inv(_outer(call["k"], call["k"]).cumsum(1) + call["ridge"] * one)
