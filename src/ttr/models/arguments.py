"""The arguments of a call of a model, checked and translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.utils import logging

from ttr import distributed
from ttr.models.cache import TTRCache
from ttr.models.packing import packing_of

logger = logging.get_logger(__name__)

# what collators and generate pass beside the boundaries and the cache, from which they follow; a tokenizer is
# for stop strings
IGNORED = ("max_length_q", "max_length_k", "cache_position", "tokenizer")


def one_cache(past_key_values: Cache | None, cache: Cache | None) -> TTRCache | None:
    """The cache, passed under either name."""
    if past_key_values is not None and cache is not None:
        raise ValueError("past_key_values and cache are two names of the same argument. Give one of them.")
    given = past_key_values if cache is None else cache
    if given is not None and not isinstance(given, TTRCache):
        raise ValueError(
            f"past_key_values must be a ttr.models.TTRCache, got {type(given).__name__}. Leave it out to "
            "start with an empty cache; prefix tuning, which passes keys and values to attention, is not for "
            "memories."
        )
    return given


def tokens_read(cache: TTRCache | None) -> Int[Tensor, " rows"] | None:
    """How many tokens of every sequence the cache has read; None if it continues none."""
    read = (layer.tokens_read() for layer in (() if cache is None else cache.layers))
    return next((tokens for tokens in read if tokens is not None), None)


def check_read(others: dict[str, Any]) -> None:
    """Refuse data under a name that the model does not read, which may be misspelt; switches are accepted."""
    for name, value in others.items():
        if name not in IGNORED and not isinstance(value, bool | int | float | str | None):
            raise ValueError(
                f"This model does not read {name!r}, which holds a {type(value).__name__}. Leave it out, "
                "or correct its name."
            )
    if others.get("output_attentions"):
        logger.warning_once("Memories have no attention maps: output_attentions=True gives None.")


def within_sequences(
    labels: Int[Tensor, "B T"], x: Tensor | None, of_loss: Mapping[str, Any], **packed: Any
) -> Int[Tensor, "B T"]:
    """The labels, set to -100 at tokens that do not follow a token of their own sequence.

    Labels that are still to be shifted are refused in a shard of longer sequences, whose last label the next
    process holds."""
    if distributed.current() is not None and of_loss.get("shift_labels") is None:
        raise ValueError(
            "The label of the last token of a shard belongs to the next process. Pass what "
            "ttr.distributed.split returns, without labels."
        )
    if x is not None and labels.shape != x.shape[:2]:
        raise ValueError(
            f"labels have shape {list(labels.shape)}, but the tokens {list(x.shape[:2])}. "
            "Give one label per token, -100 for no loss."
        )
    return packing_of((labels.shape[0], labels.shape[1]), **packed).labels(labels)


def warn_of_first_labels(x: Tensor, **packed: Any) -> None:
    """Tell those who train without passing labels what a loss outside of the model, like the Trainer's label
    smoothing, does not know: which tokens begin a sequence inside their row."""
    if torch.compiler.is_compiling():
        return
    if packing_of((x.shape[0], x.shape[1]), **packed).sequences > x.shape[0]:
        logger.warning_once(
            "The rows of this call hold several sequences, and no labels were passed, as with "
            "label_smoothing_factor of the Trainer: a loss outside of the model predicts the first token of "
            "a sequence from the one before it, unless its label is -100. Set that in the collator, as "
            "DataCollatorWithFlattening does."
        )
