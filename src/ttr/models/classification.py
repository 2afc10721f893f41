"""The decoder with the heads of transformers that classify sequences and tokens, or find the span of an
answer."""

from __future__ import annotations

from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)

from ttr.models.modeling import TTRPreTrainedModel


class TTRForSequenceClassification(GenericForSequenceClassification, TTRPreTrainedModel):
    """One label per row, read from its last token that is not ``config.pad_token_id``: the token that has
    seen all others. ``config.num_labels`` is the number of labels."""


class TTRForTokenClassification(GenericForTokenClassification, TTRPreTrainedModel):
    """One label per token; a token of a causal memory has seen those before it alone."""


class TTRForQuestionAnswering(GenericForQuestionAnswering, TTRPreTrainedModel):
    """Logits of the first and the last token of an answer."""
