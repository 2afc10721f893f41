"""The decoder with the heads of transformers that classify sequences and tokens, or find the span of an
answer."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)

from ttr import distributed
from ttr.models.modeling import TTRPreTrainedModel


class Head(TTRPreTrainedModel):
    """A head that reads the tokens of whole rows, or averages over them, and so not those of a shard."""

    def __call__(self, *arguments: Any, **others: Any) -> Any:
        if distributed.current() is not None:
            raise ValueError(
                f"{type(self).__name__} reads whole sequences, and sequence_parallel gives it a shard. Use "
                "data parallelism, or TTRModel inside the block and a head of your own."
            )
        return super().__call__(*arguments, **others)


class TTRForSequenceClassification(GenericForSequenceClassification, Head):
    """One label per row, read from its last token that is not ``config.pad_token_id``: the token that has
    seen all others. ``config.num_labels`` is the number of labels."""


class TTRForTokenClassification(GenericForTokenClassification, Head):
    """One label per token; a token of a causal memory has seen those before it alone."""


class TTRForQuestionAnswering(GenericForQuestionAnswering, Head):
    """Logits of the first and the last token of an answer."""
