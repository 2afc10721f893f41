"""The operators of flash-linear-attention by their names and arguments, computed by ``ttr.regress``.

    from ttr.compat.fla import chunk_gated_delta_rule       # instead of: from fla.ops import ...

They run on any device, also without a GPU, in float64 too, and with second derivatives. Shapes, states and
defaults are those of fla.ops 0.6: q, k [B,T,H,K], v [B,T,HV,V], states [N,HV,K,V] with N = B, or the number
of sequences packed by ``cu_seqlens``. Arguments after ``output_final_state`` are given by name. ttr chooses
the engine, whichever of ``chunk_``, ``fused_chunk_``, ``parallel_`` and ``fused_recurrent_`` the name says.
Options that only schedule fla's kernels are accepted; one that would change the result and is not supported
raises a ValueError.
"""

from __future__ import annotations

from ttr.compat.fla.additive import (
    chunk_gla,
    chunk_lightning_attn,
    chunk_linear_attn,
    chunk_retention,
    chunk_rwkv6,
    chunk_simple_gla,
    fused_chunk_linear_attn,
    fused_chunk_retention,
    fused_chunk_simple_gla,
    fused_recurrent_gla,
    fused_recurrent_lightning_attn,
    fused_recurrent_linear_attn,
    fused_recurrent_retention,
    fused_recurrent_rwkv6,
    fused_recurrent_simple_gla,
)
from ttr.compat.fla.delta import (
    chunk_comba,
    chunk_delta_rule,
    chunk_dplr_delta_rule,
    chunk_gated_delta_product,
    chunk_gated_delta_rule,
    chunk_gdn,
    chunk_kda,
    chunk_rwkv7,
    fused_recurrent_comba,
    fused_recurrent_delta_rule,
    fused_recurrent_dplr_delta_rule,
    fused_recurrent_gated_delta_rule,
    fused_recurrent_gdn,
    fused_recurrent_kda,
    fused_recurrent_rwkv7,
)
from ttr.compat.fla.exact import (
    chunk_mesa_net,
    parallel_attn,
    parallel_forgetting_attn,
)

__all__ = [
    "chunk_comba",
    "chunk_delta_rule",
    "chunk_dplr_delta_rule",
    "chunk_gated_delta_product",
    "chunk_gated_delta_rule",
    "chunk_gdn",
    "chunk_gla",
    "chunk_kda",
    "chunk_lightning_attn",
    "chunk_linear_attn",
    "chunk_mesa_net",
    "chunk_retention",
    "chunk_rwkv6",
    "chunk_rwkv7",
    "chunk_simple_gla",
    "fused_chunk_linear_attn",
    "fused_chunk_retention",
    "fused_chunk_simple_gla",
    "fused_recurrent_comba",
    "fused_recurrent_delta_rule",
    "fused_recurrent_dplr_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gdn",
    "fused_recurrent_gla",
    "fused_recurrent_kda",
    "fused_recurrent_lightning_attn",
    "fused_recurrent_linear_attn",
    "fused_recurrent_retention",
    "fused_recurrent_rwkv6",
    "fused_recurrent_rwkv7",
    "fused_recurrent_simple_gla",
    "parallel_attn",
    "parallel_forgetting_attn",
]
