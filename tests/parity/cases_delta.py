"""Memories trained by descent: the delta rule, and its gated, per-channel, several-pair, implicit and
old-state forms."""

from __future__ import annotations

import torch

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers


def _delta_tensors(
    draw: Draw, heads: tuple[int, int, int] = (H, H, H), channels: tuple[int, ...] = ()
) -> dict[str, torch.Tensor]:
    tensors = draw.qkv(heads) | {"step_size": draw.between(0.1, 1.0, B, T, heads[2])}
    return tensors | {
        "log_decay": draw.log_decay(B, T, heads[2], *channels),
        "state": draw.normal(B, heads[2], K, V),
    }


@parity("deltanet", "fla/ops/delta_rule/naive.py delta_rule_recurrence")
def deltanet(draw: Draw):
    original = fla("ops/delta_rule/naive.py", "delta_rule_recurrence").delta_rule_recurrence
    tensors = _delta_tensors(draw)
    del tensors["log_decay"]

    def ours(q, k, v, step_size, state):
        return fold(problem("deltanet"), q, k, v, {"step_size": step_size}, memory=state)

    def theirs(q, k, v, step_size, state):
        y, end = original(*(x.transpose(1, 2) for x in (q, k, v, step_size)), initial_state=state)
        return y.transpose(1, 2), end

    return tensors, ours, theirs


def _gated(entry: str, channels: tuple[int, ...], original, heads: tuple[int, int, int], draw: Draw):
    """Gated DeltaNet and Kimi Delta Attention differ only in the shape of their gate."""

    def ours(q, k, v, step_size, log_decay, state):
        return fold(problem(entry), q, k, v, {"step_size": step_size, "log_decay": log_decay}, memory=state)

    def theirs(q, k, v, step_size, log_decay, state):
        return original(q, k, v, beta=step_size, g=log_decay, initial_state=state, output_final_state=True)

    return _delta_tensors(draw, heads, channels), ours, theirs


@parity("gated-deltanet", "fla/ops/gated_delta_rule/naive.py naive_recurrent_gated_delta_rule")
def gated_deltanet(draw: Draw):
    original = fla(
        "ops/gated_delta_rule/naive.py", "naive_recurrent_gated_delta_rule"
    ).naive_recurrent_gated_delta_rule
    return _gated("gated-deltanet", (), original, (H, H, H), draw)


@parity("gated-deltanet", "fla/ops/gated_delta_rule/naive.py naive_chunk_gated_delta_rule")
def gated_deltanet_chunk(draw: Draw):
    original = fla(
        "ops/gated_delta_rule/naive.py", "naive_chunk_gated_delta_rule"
    ).naive_chunk_gated_delta_rule
    return _gated(
        "gated-deltanet", (), lambda *x, **options: original(*x, chunk_size=4, **options), (H, H, H), draw
    )


@parity("gated-deltanet", "transformers models/qwen3_next torch_recurrent_gated_delta_rule, grouped heads")
def gated_deltanet_qwen(draw: Draw):
    original = transformers(
        "models/qwen3_next/modeling_qwen3_next.py", "torch_recurrent_gated_delta_rule"
    ).torch_recurrent_gated_delta_rule
    return _gated("gated-deltanet", (), original, (2, 2, 4), draw)


@parity("gated-deltanet", "transformers models/qwen3_next torch_chunk_gated_delta_rule, grouped heads")
def gated_deltanet_qwen_chunk(draw: Draw):
    original = transformers(
        "models/qwen3_next/modeling_qwen3_next.py", "torch_chunk_gated_delta_rule"
    ).torch_chunk_gated_delta_rule
    return _gated(
        "gated-deltanet", (), lambda *x, **options: original(*x, chunk_size=4, **options), (2, 2, 4), draw
    )


@parity("kda", "fla/ops/kda/naive.py naive_recurrent_kda, grouped heads")
def kda(draw: Draw):
    original = fla("ops/kda/naive.py", "naive_recurrent_kda").naive_recurrent_kda
    return _gated("kda", (K,), original, (2, 2, 4), draw)


@parity("kda", "transformers models/kimi_linear recurrent_kimi_delta_attention")
def kda_kimi(draw: Draw):
    original = transformers(
        "models/kimi_linear/modeling_kimi_linear.py", "recurrent_kimi_delta_attention"
    ).recurrent_kimi_delta_attention
    return _gated("kda", (K,), original, (H, H, H), draw)


@parity("kda", "transformers models/kimi_linear chunk_kimi_delta_attention")
def kda_kimi_chunk(draw: Draw):
    original = transformers(
        "models/kimi_linear/modeling_kimi_linear.py", "chunk_kimi_delta_attention"
    ).chunk_kimi_delta_attention
    return _gated("kda", (K,), lambda *x, **options: original(*x, chunk_size=4, **options), (H, H, H), draw)


@parity("gated-deltaproduct", "fla/ops/gated_delta_product/naive.py naive_recurrent_gated_delta_product")
def gated_deltaproduct(draw: Draw):
    original = fla(
        "ops/gated_delta_product/naive.py", "naive_recurrent_gated_delta_product"
    ).naive_recurrent_gated_delta_product
    memory = problem("gated-deltaproduct")
    n = memory.solver.pairs_per_token

    def ours(q, k, v, step_size, log_decay, state):
        return fold(memory, q, k, v, {"step_size": step_size, "log_decay": log_decay}, memory=state)

    def theirs(q, k, v, step_size, log_decay, state):
        k, v, step_size = (x.flatten(1, 2) for x in (k, v, step_size))
        return original(
            q,
            k,
            v,
            log_decay,
            step_size,
            scale=K**-0.5,
            initial_state=state,
            output_final_state=True,
            num_householder=n,
        )

    tensors = {
        "q": draw.normal(B, T, H, K),
        "k": draw.unit(B, T, n, H, K),
        "v": draw.normal(B, T, n, H, V),
        "step_size": draw.between(0.1, 1.0, B, T, n, H),
        "log_decay": draw.log_decay(B, T, H),
        "state": draw.normal(B, H, K, V),
    }
    return tensors, ours, theirs


@parity("comba", "fla/ops/comba/naive.py naive_chunk_comba (the recurrent one there reads the decayed state)")
def comba(draw: Draw):
    original = fla("ops/comba/naive.py", "naive_chunk_comba").naive_chunk_comba

    def ours(q, k, v, step_size, log_decay, state, read_key):
        return fold(
            problem("comba"),
            q,
            k,
            v,
            {"step_size": step_size, "log_decay": log_decay, "read_key": read_key},
            memory=state,
        )

    def theirs(q, k, v, step_size, log_decay, state, read_key):
        return original(
            q,
            k,
            v,
            read_key,
            log_decay,
            step_size,
            chunk_size=4,
            initial_state=state,
            output_final_state=True,
        )

    return _delta_tensors(draw) | {"read_key": draw.unit(B, T, H, K)}, ours, theirs


@parity(
    "longhorn-exact",
    "dense solve of the objective of arXiv 2407.14207, ||s - s_old||^2 + beta (s.k - x)^2 per value channel",
)
def longhorn_exact(draw: Draw):
    """Setting its gradient to zero: (I + beta k k^T) s = s_old + beta x k. The released code keeps only the
    diagonal of k k^T, so there is no public original of the exact form."""

    def ours(q, k, v, step_size, state):
        return fold(problem("longhorn-exact"), q, k, v, {"step_size": step_size}, memory=state)

    def theirs(q, k, v, step_size, state):
        y, s = [], state[..., 0]
        for t in range(T):
            key, beta = k[:, t], step_size[:, t, :, None]
            system = torch.eye(K) + beta[..., None] * key[..., :, None] * key[..., None, :]
            s = torch.linalg.solve(system, s + beta * v[:, t] * key)
            y.append((s * q[:, t]).sum(-1, keepdim=True))
        return torch.stack(y, dim=1), s[..., None]

    # Its layout: d_inner heads of one value channel each; keys and queries shared by all of them, not
    #     normalised, no scale.
    channels = 6
    tensors = {
        "q": draw.normal(B, T, 1, K),
        "k": draw.normal(B, T, 1, K),
        "v": draw.normal(B, T, channels, 1),
        "step_size": draw.between(0.1, 1.0, B, T, channels),
        "state": draw.normal(B, channels, K, 1),
    }
    return tensors, ours, theirs


# ------------------------------------------------------------------------------------------------- successors
@parity(
    "deltaproduct", "fla/ops/gated_delta_product/naive.py naive_recurrent_gated_delta_product, without gates"
)
def deltaproduct(draw: Draw):
    original = fla(
        "ops/gated_delta_product/naive.py", "naive_recurrent_gated_delta_product"
    ).naive_recurrent_gated_delta_product
    memory = problem("deltaproduct")
    n = memory.solver.pairs_per_token

    def ours(q, k, v, step_size, state):
        return fold(memory, q, k, v, {"step_size": step_size}, memory=state)

    def theirs(q, k, v, step_size, state):
        k, v, step_size = (x.flatten(1, 2) for x in (k, v, step_size))
        gates = torch.zeros(B, T, H)
        return original(
            q,
            k,
            v,
            gates,
            step_size,
            scale=K**-0.5,
            initial_state=state,
            output_final_state=True,
            num_householder=n,
        )

    tensors = {
        "q": draw.normal(B, T, H, K),
        "k": draw.unit(B, T, n, H, K),
        "v": draw.normal(B, T, n, H, V),
        "step_size": draw.between(0.1, 2.0, B, T, n, H),
        "state": draw.normal(B, H, K, V),
    }
    return tensors, ours, theirs


def _gated_deltanet2(draw: Draw, original):
    def ours(q, k, v, log_decay, erase, write, state):
        return fold(
            problem("gated-deltanet2"),
            q,
            k,
            v,
            {"log_decay": log_decay, "read_key": erase * k, "write": write},
            memory=state,
        )

    def theirs(q, k, v, log_decay, erase, write, state):
        return original(q, k, v, log_decay, erase, write, initial_state=state, output_final_state=True)

    tensors = draw.qkv() | {
        "log_decay": draw.log_decay(B, T, H, K),
        "erase": draw.between(0.1, 1.0, B, T, H, K),
    }
    return (
        tensors | {"write": draw.between(0.1, 1.0, B, T, H, V), "state": draw.normal(B, H, K, V)},
        ours,
        theirs,
    )


@parity("gated-deltanet2", "fla/ops/gdn2/naive.py naive_recurrent_gdn2")
def gated_deltanet2(draw: Draw):
    return _gated_deltanet2(draw, fla("ops/gdn2/naive.py", "naive_recurrent_gdn2").naive_recurrent_gdn2)


@parity("gated-deltanet2", "fla/ops/gdn2/naive.py naive_chunk_gdn2")
def gated_deltanet2_chunk(draw: Draw):
    original = fla("ops/gdn2/naive.py", "naive_chunk_gdn2").naive_chunk_gdn2
    return _gated_deltanet2(draw, lambda *x, **options: original(*x, chunk_size=4, **options))


def _rwkv7(draw: Draw, original, tokens: int):
    """The naive operator scales the queries, which RWKV-7 does not. It adds what the memory says at
    ``alpha``, so alpha = -kk."""

    def ours(q, k, v, log_decay, read_key, rate, state):
        controls = {"log_decay": log_decay, "read_key": read_key, "erase_key": rate * read_key}
        return fold(problem("rwkv7"), q, k, v, controls, memory=state)

    def theirs(q, k, v, log_decay, read_key, rate, state):
        q, k, v, alpha, beta, gates = (
            x.transpose(1, 2) for x in (K**0.5 * q, k, v, -read_key, rate * read_key, log_decay)
        )
        y, end = original(q, k, v, alpha, beta, gates, initial_state=state, output_final_state=True)
        return y.transpose(1, 2), end

    tensors = {
        "q": draw.normal(B, tokens, H, K),
        "k": draw.normal(B, tokens, H, K),
        "v": draw.normal(B, tokens, H, V),
    }
    tensors |= {"log_decay": draw.log_decay(B, tokens, H, K), "read_key": draw.unit(B, tokens, H, K)}
    return (
        tensors | {"rate": draw.between(0.1, 1.0, B, tokens, H, K), "state": draw.normal(B, H, K, V)},
        ours,
        theirs,
    )


@parity("rwkv7", "fla/ops/generalized_delta_rule/dplr/naive.py dplr_recurrence")
def rwkv7(draw: Draw):
    return _rwkv7(draw, fla("ops/generalized_delta_rule/dplr/naive.py", "dplr_recurrence").dplr_recurrence, T)


@parity("rwkv7", "fla/ops/generalized_delta_rule/dplr/naive.py dplr_chunkwise")
def rwkv7_chunk(draw: Draw):
    original = fla("ops/generalized_delta_rule/dplr/naive.py", "dplr_chunkwise").dplr_chunkwise
    return _rwkv7(draw, lambda *x, **options: original(*x, chunk_size=4, **options), 12)


def _preconditioned(entry: str, channels: tuple[int, ...], original, draw: Draw):
    """``original`` of q, k, v, both decays, both steps; the centre of the squashing comes last."""
    unit = torch.nn.functional.normalize

    def ours(q, k, v, log_decay, step_size, precond_log_decay, precond_step, center, state, preconditioner):
        controls = {
            "log_decay": log_decay,
            "step_size": step_size,
            "precond_log_decay": precond_log_decay,
            "precond_step": precond_step,
        }
        return fold(
            problem(entry),
            unit(q, dim=-1),
            unit(k, dim=-1),
            v,
            {**controls, "params": {"solver.center": center}},
            memory=state,
            preconditioner=preconditioner,
        )

    def theirs(q, k, v, log_decay, step_size, precond_log_decay, precond_step, center, state, preconditioner):
        return original(
            q=unit(q, dim=-1),
            k=unit(k, dim=-1),
            v=v,
            g=log_decay,
            beta=step_size,
            g_atk=precond_log_decay,
            beta_atk=precond_step,
            log_atk_scale=center,
            initial_state=state,
            initial_A_state=preconditioner,
            output_final_state=True,
        )

    tensors = _delta_tensors(draw, channels=channels) | {"precond_log_decay": draw.log_decay(B, T, H)}
    tensors["precond_step"] = draw.between(0.1, 1.0, B, T, H)
    return (
        tensors | {"center": draw.normal(H), "preconditioner": draw.between(0.1, 1.0, B, H, K)},
        ours,
        theirs,
    )


@parity(
    "precond-gated-deltanet",
    "fla/ops/precond_gated_delta_rule/naive.py naive_recurrent_precond_gated_delta_rule",
)
def precond_gated_deltanet(draw: Draw):
    name = "naive_recurrent_precond_gated_delta_rule"
    return _preconditioned(
        "precond-gated-deltanet", (), getattr(fla("ops/precond_gated_delta_rule/naive.py", name), name), draw
    )


@parity("precond-kda", "fla/ops/precond_kda/naive.py naive_recurrent_precond_kda")
def precond_kda(draw: Draw):
    original = fla("ops/precond_kda/naive.py", "naive_recurrent_precond_kda").naive_recurrent_precond_kda
    return _preconditioned("precond-kda", (K,), original, draw)


@parity(
    "momentum-deltanet",
    "fla/ops/momentum_delta_rule/naive.py recurrent_momentum_delta_rule_ref, p = a k as in its layer",
)
def momentum_deltanet(draw: Draw):
    original = fla(
        "ops/momentum_delta_rule/naive.py", "recurrent_momentum_delta_rule_ref"
    ).recurrent_momentum_delta_rule_ref

    def ours(q, k, v, log_decay, step_size, momentum, momentum_step, state, running):
        controls = {
            "log_decay": log_decay,
            "step_size": step_size,
            "momentum": momentum,
            "momentum_step": momentum_step,
        }
        return fold(problem("momentum-deltanet"), q, k, v, controls, memory=state, momentum=running)

    def theirs(q, k, v, log_decay, step_size, momentum, momentum_step, state, running):
        read = log_decay.exp()[..., None] * k
        y, end = original(
            q,
            k,
            v,
            log_decay,
            momentum.log(),
            read,
            beta=momentum_step,
            eta=step_size,
            initial_S=state,
            initial_M=running,
            output_final_state=True,
        )
        return y, *end

    tensors = _delta_tensors(draw) | {
        "momentum": draw.between(0.1, 1.0, B, T, H),
        "momentum_step": draw.between(0.1, 1.0, B, T, H),
    }
    return tensors | {"running": draw.normal(B, H, K, V)}, ours, theirs


@parity("gated-oja", "descent of 1/2 ||k - N v||^2 by autograd")
def gated_oja(draw: Draw):
    """flash-linear-attention has this rule as Triton kernels alone; its formula is the gradient of this
    objective."""

    def ours(q, k, v, step_size, value_log_decay, state):
        return fold(
            problem("gated-oja"),
            q,
            k,
            v,
            {"step_size": step_size, "value_log_decay": value_log_decay},
            memory=state,
        )

    def theirs(q, k, v, step_size, value_log_decay, state):
        y = []
        for t in range(T):
            state = state * value_log_decay[:, t].exp()[..., None, :]
            slope = torch.func.grad(
                lambda n, t=t: 0.5 * (k[:, t] - (n @ v[:, t, ..., None])[..., 0]).square().sum()
            )(state)
            state = state - step_size[:, t, :, None, None] * slope
            y.append(K**-0.5 * (q[:, t, :, None] @ state)[..., 0, :])
        return torch.stack(y, dim=1), state

    tensors = {"q": draw.normal(B, T, H, K), "k": draw.normal(B, T, H, K), "v": draw.unit(B, T, H, V)}
    tensors |= {"step_size": draw.between(0.1, 1.0, B, T, H), "value_log_decay": draw.log_decay(B, T, H, V)}
    return tensors | {"state": draw.normal(B, H, K, V)}, ours, theirs


@parity(
    "gated-oja",
    "the delta rule per channel (fla/ops/kda/naive.py) with keys and values exchanged, "
    "unit queries probing its state",
)
def gated_oja_exchanged(draw: Draw):
    """N^T is the state of Kimi Delta Attention for keys v and values k; reading it with every unit vector
    gives N^T itself."""
    original = fla("ops/kda/naive.py", "naive_recurrent_kda").naive_recurrent_kda
    tensors, ours, _ = gated_oja(draw)

    def theirs(q, k, v, step_size, value_log_decay, state):
        rows = [
            original(
                unit.expand(v.shape),
                v,
                k,
                value_log_decay,
                step_size,
                scale=1.0,
                initial_state=state.mT,
                output_final_state=True,
            )
            for unit in torch.eye(V)
        ]
        turned = torch.stack([row for row, _ in rows], dim=-2)
        return K**-0.5 * (turned @ q[..., None])[..., 0], rows[0][1].mT

    return tensors, ours, theirs
