"""The local polynomial fit of a block of tokens, with the monomials of all displacements written out."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ttr.engines.torch.attention import grouped_product
from ttr.engines.torch.centred_fit import monomials, tilted
from ttr.forms.pair_weights import PairWeights, probabilities


def read_block(
    pairs: PairWeights,
    start: int,
    query: Float[Tensor, "B H C K"],
    places: Float[Tensor, "B H C D"],
    keys: Float[Tensor, "B G M K"],
    points: Float[Tensor, "B G M D"],
    values: Float[Tensor, "B G M V"],
    degree: int,
    ridge: Float[Tensor, "H F"],
) -> Tensor:
    """The read-outs [B,H,C,V] of C tokens from ``start``."""
    stop, sharing = start + query.shape[2], query.shape[1] // points.shape[1]
    # Only differences of keys and queries matter. They are taken relative to a key of the block, so that keys
    # far from 0 lose no digits.
    origin = points[:, :, pairs.past.shape[-1] + start, None].detach()
    places = places - origin.repeat_interleave(sharing, dim=1)
    keys, points, values = (pairs.seen(x, start, stop) for x in (keys, points, values))
    p = probabilities(
        grouped_product(query, keys.mT) + pairs.block(start, stop), pairs.importance is not None
    )
    offset = (points - origin).repeat_interleave(sharing, dim=1)[:, :, None] - places[..., None, :]
    return grouped_product(tilted(p, monomials(offset, degree), ridge[:, None]), values)
