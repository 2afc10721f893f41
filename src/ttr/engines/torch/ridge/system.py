"""The systems of all tokens of some chunks, which are never formed.

Letters: G chunks of C tokens, F features, V value channels; L = C + F and D = F + V, a chunk's pairs with the
moments before it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class System(NamedTuple):
    """A_t = a_t H_0 + sum_{i<=t} W_ti k_i k_i^T + diag(ridge) for the C tokens of each of G chunks (MesaNet,
    arXiv 2506.05233).

    Args:
        pairs: the pairs [k_i v_i] of a chunk, and below them the moments [H_0 U_0] that enter it.
        weights: W, lower triangular.
        decay: a_t, the decay of H_0.
        log_decay: log a_t up to a constant of the chunk; -inf from a reset on.
    """

    pairs: Float[Tensor, "G L D"]
    weights: Float[Tensor, "G C C"]
    decay: Float[Tensor, "G C 1"]
    log_decay: Float[Tensor, "G C"]
    ridge: Float[Tensor, "G 1 F"]

    @property
    def keys(self) -> Float[Tensor, "G C F"]:
        return self.pairs[:, : self.weights.shape[-1], : self.ridge.shape[-1]]

    @property
    def values(self) -> Float[Tensor, "G C V"]:
        return self.pairs[:, : self.weights.shape[-1], self.ridge.shape[-1] :]

    @property
    def gram(self) -> Float[Tensor, "G F F"]:
        return self.pairs[:, self.weights.shape[-1] :, : self.ridge.shape[-1]]

    @property
    def memory(self) -> Float[Tensor, "G F V"]:
        return self.pairs[:, self.weights.shape[-1] :, self.ridge.shape[-1] :]

    def select(self, groups: Bool[Tensor, " G"]) -> System:
        """The systems of some chunks."""
        return self if bool(groups.all()) else System(*(tensor[groups] for tensor in self))

    def product(self, x: Float[Tensor, "G C F"]) -> Float[Tensor, "G C F"]:
        """A_t x_t for every token."""
        return (self.shares(x) @ self.pairs[..., : x.shape[-1]]).addcmul_(self.ridge, x)

    def read(self, x: Float[Tensor, "G C F"]) -> Float[Tensor, "G C V"]:
        """U_t^T x_t for every token."""
        return self.shares(x) @ self.pairs[..., x.shape[-1] :]

    def shares(self, x: Float[Tensor, "G C F"]) -> Float[Tensor, "G C L"]:
        """[W_ti (x_t.k_i), a_t x_t]."""
        size = self.weights.shape[-1]
        shares = x.new_empty(*x.shape[:2], size + x.shape[2])
        torch.mul(x @ self.keys.mT, self.weights, out=shares[..., :size])
        torch.mul(x, self.decay, out=shares[..., size:])
        return shares

    def diagonal(self) -> Float[Tensor, "G C F"]:
        """The diagonals of all A_t."""
        return (
            torch.baddbmm(
                self.decay * self.gram.diagonal(dim1=-2, dim2=-1)[:, None], self.weights, self.keys.square()
            )
            + self.ridge
        )

    def trace(self) -> Float[Tensor, "G C"]:
        """The traces of all A_t, from C numbers per token."""
        inside = (self.weights * torch.linalg.vecdot(self.keys, self.keys)[:, None]).sum(-1)
        return (
            inside
            + self.decay[..., 0] * self.gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
            + self.ridge.sum(-1)
        )

    def norm(self) -> Float[Tensor, "G C"]:
        """||A_t||_F, which lies between |A_t| and its multiple by the root of F."""
        diagonal = self.diagonal() - self.ridge
        squares = squared_norms(self.weights, self.keys, self.decay, self.gram)
        return (squares + (self.ridge * (2 * diagonal + self.ridge)).sum(-1)).sqrt()

    def matrices(self, group: Tensor, row: Tensor) -> Float[Tensor, "n F F"]:
        """The matrices of some tokens, in float64 where the device has it."""
        wide = self.pairs.dtype if self.pairs.device.type == "mps" else torch.float64
        keys, weights = self.keys[group].to(wide), self.weights[group, row].to(wide)[..., None]
        matrix = (weights * keys).mT @ keys + torch.diag_embed(self.ridge[group, 0].to(wide))
        return matrix.addcmul_(self.decay[group, row].to(wide)[..., None], self.gram[group].to(wide))


def squared_norms(
    weights: Float[Tensor, "G C C"],
    keys: Float[Tensor, "G C F"],
    decay: Float[Tensor, "G C 1"],
    gram: Float[Tensor, "G F F"],
) -> Float[Tensor, "G C"]:
    """||H_t||_F^2 without H_t: with G_ij = k_i.k_j, H_t = a_t H_0 + sum_i W_ti k_i k_i^T has a_t^2 ||H_0||^2
    + 2 a_t sum_i W_ti k_i^T H_0 k_i + sum_ij W_ti G_ij^2 W_tj. No term is negative."""
    wide = keys.dtype if keys.device.type == "mps" else torch.float64
    weights, keys, share, gram = (t.to(wide) for t in (weights, keys, decay[..., 0], gram))
    across = ((keys @ gram) * keys).sum(-1)
    inside = ((weights @ (keys @ keys.mT).square()) * weights).sum(-1)
    return (
        share.square() * gram.square().sum((-2, -1))[:, None]
        + 2 * share * (weights @ across[..., None])[..., 0]
        + inside
    )
