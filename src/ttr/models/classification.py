"""The decoder with the heads of transformers that classify sequences and tokens, or find the span of an
answer."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from ttr import distributed
from ttr.models.arguments import one_cache, tokens_read
from ttr.models.cache import CACHE
from ttr.models.modeling import TTRPreTrainedModel
from ttr.models.packing import PaddingLast, Rows, packing_of


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
    """One label per sequence, read from its last token, which has seen all others.
    ``config.num_labels`` is the number of labels."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        cu_seq_lens_q: Int[Tensor, " bounds"] | None = None,
        cu_seq_lens_k: Int[Tensor, " bounds"] | None = None,
        seq_idx: Tensor | None = None,
        cache: Cache | None = None,
        **others: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Logits [sequences, labels], one row per sequence in their order: per row, unless rows are packed.
        Inputs are those of ``TTRModel.forward``.

        Args:
            attention_mask: if None, tokens that are ``config.pad_token_id`` count as padding, as everywhere
                in transformers.
            labels: [sequences], or [sequences, labels] for several or for regression.

        Raises:
            ValueError: also if a sequence has no token.
        """
        packed = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cu_seqlens": cu_seqlens,
            "cu_seq_lens_q": cu_seq_lens_q,
            "cu_seq_lens_k": cu_seq_lens_k,
            "seq_idx": seq_idx,
        }
        cache = one_cache(past_key_values, cache)
        last = self._last_tokens(input_ids, inputs_embeds, tokens_read(cache), packed)
        outputs = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=use_cache,
            **packed,
            **others | {"return_dict": True},
        )
        logits = self.score(outputs.last_hidden_state.flatten(0, 1)[last])
        loss = None
        if labels is not None:
            if len(labels) != len(logits):
                raise ValueError(
                    f"labels are {len(labels)}, and the call has {len(logits)} sequences. Give one label per "
                    "sequence, in their order."
                )
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            **{CACHE: outputs.get(CACHE)},
        )

    def _last_tokens(
        self,
        input_ids: Int[Tensor, "B T"] | None,
        inputs_embeds: Float[Tensor, "B T D"] | None,
        read: Int[Tensor, " rows"] | None,
        packed: dict[str, Tensor | None],
    ) -> Int[Tensor, " sequences"]:
        """Where in the flattened batch the last token of each sequence is."""
        x = input_ids if inputs_embeds is None else inputs_embeds
        if x is None or any(given is not None for given in packed.values()):
            shape = (0, 0) if x is None else (x.shape[0], x.shape[1])
            return packing_of(shape, read=read, **packed).last()
        padding = self.config.pad_token_id
        if input_ids is None or padding is None:
            if input_ids is not None and len(input_ids) > 1:
                raise ValueError(
                    "Which tokens of these rows are padding is not known. Pass attention_mask, or set "
                    "config.pad_token_id."
                )
            return Rows((x.shape[0], x.shape[1])).last()
        return PaddingLast((x.shape[0], x.shape[1]), input_ids != padding).last()


class TTRForTokenClassification(GenericForTokenClassification, Head):
    """One label per token; a token of a causal memory has seen those before it alone."""


class TTRForQuestionAnswering(GenericForQuestionAnswering, Head):
    """Logits of the first and the last token of an answer."""
