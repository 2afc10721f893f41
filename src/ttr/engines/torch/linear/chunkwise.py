"""A linear recurrence in torch's differentiable operations, all chunks at once: for functorch, torch.compile
and second derivatives, and the fallback of the operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.torch.chunks import chunk_length, cumulative_log_decay, join, scores, shrink, split
from ttr.forms.linear_recurrence import LinearRecurrence


def run(r: LinearRecurrence, chunk: int) -> tuple[Tensor, Tensor]:
    """y [B,T,H,V] and the final memory [B,H,F,V], in chunks of ``chunk`` tokens."""
    r = r._replace(query=r.scale * r.query, scale=1.0)
    return additive(r, chunk) if r.read is None else delta(r, chunk)


def additive(r: LinearRecurrence, chunk: int) -> tuple[Tensor, Tensor]:
    """S_t = D_t S_{t-1} + k_t v_t^T by matrix products (the chunkwise form of GLA, arXiv 2312.06635).

    Let b_i be the cumulative log decay in a chunk and S_0 the memory that enters it. Unrolled,

        y_i = S_0^T (q_i e^{b_i}) + sum_{j<=i} A_ij v_j,     A_ij = sum_d q_id k_jd e^{b_id - b_jd}
        S_C = e^{b_C} S_0 + sum_j (k_j e^{b_C - b_j}) v_j^T

    and everything is computed for all chunks at once except the last line, which is a scan over chunks. Where
    tokens read before they write, y_i has b_{i-1} for b_i and j < i. Several pairs per token form a sequence
    of pairs, which is read at the last pair of each token.
    """
    time = r.query.shape[1]
    tokens = chunk_length(chunk, time)
    size = tokens * r.pairs
    step = 1 if r.step is None else r.step[..., None]
    key, value = (split(tensor, size) for tensor in (r.key, step * r.value))
    query = split(r.query, tokens)
    log = cumulative_log_decay(r.log_decay, r.key, size)
    log_query, whole = log[..., r.pairs - 1 :: r.pairs, :], log[..., -1:, :]
    visible = torch.arange(r.pairs, size + 1, r.pairs, device=key.device)
    if r.reads_first:  # a token reads the memory that the previous token left
        log_query, visible = pad(log, (0, 0, 1, -1)), visible - 1

    memory, entering = r.memory, []
    added = shrink(key, whole - log).mT @ value
    for decay, new in zip(whole.mT.to(key.dtype).exp().unbind(), added.unbind(), strict=True):
        entering.append(memory)
        memory = decay * memory + new
    y = (
        shrink(query, log_query) @ torch.stack(entering)
        + scores(query, key, log_query, log, visible, tokens) @ value
    )
    return join(y, time), memory


def delta(r: LinearRecurrence, chunk: int) -> tuple[Tensor, Tensor]:
    """S_j = D_j S_{j-1} + k_j w_j^T, w_j = beta_j (v_j - S_x^T p_j), by one triangular system per chunk (the
    chunkwise form of DeltaNet, arXiv 2406.06484, Gated DeltaNet, 2412.06464, and KDA, 2510.26692).

    Let b_i be the cumulative log decay in a chunk, S_0 the memory that enters it, and c_i = b_i where the
    error is that of the decayed memory, b_{i-1} where it is that of the memory before the decay. Given all w,
    the memory is a decayed sum of the pairs (k_j, w_j), hence

        w_i = beta_i (v_i - S_0^T (p_i e^{c_i})) - sum_{j<i} A_ij w_j,     A_ij = beta_i sum_d p_id k_jd
            e^{c_id - b_jd}

    which is a unit lower triangular system, (I + A) W = beta (V - (P e^c) S_0), solved by substitution. The
    rest is the additive form with w for v. Several pairs per token form a sequence of pairs, which is read at
    the last pair of each token.

    With an erase key e, S_j = D_j S_{j-1} - beta_j e_j (S_x^T p_j)^T + beta_j k_j v_j^T, a diagonal plus low
    rank transition (RWKV-7, arXiv 2503.14456). The pairs (k_j, beta_j v_j) are known, and the corrections
    w_j = -beta_j S_x^T p_j are written at e_j: the system has e for k, and for beta V it has -A^k beta V,
    where A^k is A with the keys k.
    """
    time = r.query.shape[1]
    tokens = chunk_length(chunk, time)
    size = tokens * r.pairs
    step = 1 if r.step is None else r.step[..., None]
    key, read, value = (split(tensor, size) for tensor in (r.key, step * r.read, step * r.value))
    query = split(r.query, tokens)
    eraser = key if r.erase is None else split(r.erase, size)
    log = cumulative_log_decay(r.log_decay, r.key, size)
    log_query = log[..., r.pairs - 1 :: r.pairs, :]
    log_read = pad(log, (0, 0, 1, -1)) if r.old else log
    whole = log[..., -1:, :]

    order = torch.arange(size, device=key.device)
    visible = order[r.pairs - 1 :: r.pairs] + 1
    system = scores(read, eraser, log_read, log, order, tokens)
    target, known, outputs = value, torch.zeros_like(value[:, :, :, :1]), 0
    if r.erase is not None:
        target = -(scores(read, key, log_read, log, order, tokens) @ value)
        known = shrink(key, whole - log).mT @ value
        outputs = scores(query, key, log_query, log, visible, tokens) @ value
    chunks = (
        system,
        target,
        known,
        shrink(read, log_read),
        shrink(eraser, whole - log).mT,
        whole.mT.to(key.dtype).exp(),
    )
    memory, entering, written = r.memory, [], []
    for matrix, wanted, sums, read_now, erase_now, decay in zip(
        *(tensor.unbind() for tensor in chunks), strict=True
    ):
        entering.append(memory)
        written.append(
            torch.linalg.solve_triangular(matrix, wanted - read_now @ memory, upper=False, unitriangular=True)
        )
        memory = decay * memory + sums + erase_now @ written[-1]
    outputs = outputs + scores(query, eraser, log_query, log, visible, tokens) @ torch.stack(written)
    y = shrink(query, log_query) @ torch.stack(entering) + outputs
    return join(y, time), memory
