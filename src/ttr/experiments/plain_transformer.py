"""A plain transformer in torch alone: what any model of the comparison is held against.

Pre-norm decoder with RMSNorm, rotary positions (Su et al., "RoFormer", arXiv 2104.09864), torch's scaled dot
product attention and a SwiGLU: nothing of it is ttr's, so that a fault of ttr's models would show.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class PlainTransformer(nn.Module):
    """A decoder, called as those of transformers are."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(_Block(width, heads, mlp_width) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, input_ids: Int[Tensor, "B T"], use_cache: bool = False) -> SimpleNamespace:
        """``logits`` [B,T,vocabulary]. There is no cache."""
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return SimpleNamespace(logits=self.head(self.norm(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, mlp_width, bias=False) for _ in range(2))
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in self.qkv(self.before_attention(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(_rotated(q), _rotated(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        h = self.before_mlp(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def _rotated(x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
    """Every pair (x_i, x_{i+D/2}) turned by the angle t / 10000^(2i/D) at position t."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
    (a, b), (cos, sin) = x.chunk(2, dim=-1), (angles.cos(), angles.sin())
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
