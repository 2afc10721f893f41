"""The part of a batch that a process trains on."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ttr.distributed.shard import SequenceShard

NO_LOSS = -100


def split(
    shard: SequenceShard, input_ids: Int[Tensor, "B T"], labels: Int[Tensor, "B T"] | None = None
) -> dict[str, Any]:
    """The arguments of a causal language model for this process, whose losses add up to that of one process
    for the whole batch.

    Args:
        input_ids: of all tokens; the same on every process of the shard.
        labels: as for one process, not shifted and -100 where there is no loss; the ids by default.

    Returns:
        ``input_ids`` [B,time]; ``shift_labels``, the token after each of them, which for the last one is held
        by the next process, and -100 where the document ends; and ``num_items_in_batch``, by which
        transformers divides the summed loss: the number of labels of all processes of the shard. With data
        parallelism pass the number of all of them instead.

    Raises:
        ValueError: if the ids are not those of all tokens.
    """
    labels = input_ids if labels is None else labels
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"labels have shape {list(labels.shape)}, but the tokens {list(input_ids.shape)}. Give one label "
            "per token, -100 for no loss."
        )
    own = shard.cut(input_ids)
    shifted = torch.nn.functional.pad(labels, (0, 1), value=NO_LOSS)[:, 1:].clone()
    shifted[:, [bound - 1 for bound in shard.bounds[1:]]] = NO_LOSS
    return {
        "input_ids": own,
        "shift_labels": shard.cut(shifted),
        "num_items_in_batch": (shifted != NO_LOSS).sum(),
    }
