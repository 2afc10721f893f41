"""One decoder for every memory: embeddings, blocks of mixer and gated MLP, head.

Pre-norm residual blocks with RMSNorm and SwiGLU, as in Llama (Touvron et al., arXiv 2302.13971), and no
positional embedding: memories that need positions get them from their qkv transforms.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple, logging

from ttr import distributed
from ttr.dispatch import MemoryStep
from ttr.distributed.heads import shared_like
from ttr.layer import planned_step
from ttr.layer.mixer import Mixer
from ttr.layer.planned_step import PLAIN_MODULES
from ttr.models.arguments import check_read, one_cache, tokens_read, warn_of_first_labels, within_sequences
from ttr.models.cache import CACHE, MemoryLayer, TTRCache
from ttr.models.configuration import TTRConfig
from ttr.models.conversion import renamed_keys
from ttr.models.generation import Generation
from ttr.models.packing import Rows, packing_of
from ttr.operators.rms_norm import rms_norm
from ttr.state import State

logger = logging.get_logger(__name__)

READ_BY_THE_LOSS = ("num_items_in_batch", "shift_labels")


class TTRRMSNorm(nn.RMSNorm):
    """RMSNorm by ``ttr.operators``, two to three times as fast as torch's on a CPU."""

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return rms_norm(x, self.eps, gain=self.weight)


class TTRMLP(nn.Module):
    """SwiGLU: W_down (silu(W_gate x) * W_up x)  (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: TTRConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


PLAIN_MODULES.update((Mixer, TTRMLP, TTRRMSNorm))


class TTRBlock(GradientCheckpointingLayer):
    """x + mixer(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TTRConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.mixer_norm = TTRRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mixer = config.mixer(layer)
        self.mlp_norm = TTRRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = TTRMLP(config)
        # drawn by the mixer, unless they are still to be loaded
        for tensor in chain(self.mixer.parameters(), self.mixer.buffers()):
            tensor._is_hf_initialized = not tensor.is_meta

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: TTRCache | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """One block. It reads the layer's state in ``cache`` and stores the next one there until the cache
        commits it."""
        memory = None if cache is None else cache.layers[self.layer]
        if memory is None:
            mixed = self.mixer(self.mixer_norm(x), cu_seqlens=cu_seqlens)
        else:
            memory.begin(self, x, cu_seqlens)
            if memory.state is not None and cu_seqlens is None and x.shape[1] == 1:
                return self._step(x[:, 0], memory)[:, None]
            mixed, memory.next = self.read(x, memory.state, cu_seqlens)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x))

    def read(
        self, x: Float[Tensor, "B T D"], state: State | None, cu_seqlens: Int[Tensor, " bounds"] | None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """What the mixer makes of the inputs of the block, and its state after them."""
        return self.mixer(self.mixer_norm(x), state, return_state=True, cu_seqlens=cu_seqlens)

    def _step(self, x: Float[Tensor, "B D"], memory: MemoryLayer) -> Float[Tensor, "B D"]:
        memory.written = memory.owned
        try:
            y, memory.next = planned_step.take(
                self, self.mixer, x, memory.state, memory.owned, self._around_memory
            )
        except ValueError:  # a refused token has not been written
            memory.written = False
            raise
        return y

    def _around_memory(
        self, x: Float[Tensor, "B D"], state: State, remember: MemoryStep
    ) -> tuple[Float[Tensor, "B D"], State]:
        """The block for one token; see ``Mixer.around_memory``."""
        y, state = self.mixer.around_memory(self.mixer_norm(x), state, remember)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


class TTRPreTrainedModel(PreTrainedModel):
    """Saving, loading and initialisation."""

    config_class = TTRConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("TTRBlock",)
    _skip_keys_device_placement = ("cache", "past_key_values")
    _weight_conversions = ()  # otherwise transformers undoes the conversion when it saves

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *arguments: Any,
        config: Any = None,
        key_mapping: dict[str, str] | None = None,
        **others: Any,
    ) -> Any:
        """As in transformers; also loads folders saved by earlier revisions. When saved again, their tensors
        get today's names."""
        known = config
        if not isinstance(config, TTRConfig):
            known = TTRConfig.from_pretrained(config or pretrained_model_name_or_path, **others)
        keys = renamed_keys(known.memories()) | (key_mapping or {})
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, *arguments, config=config, key_mapping=keys, **others
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._weight_conversions = ()
        return loaded

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *others: Any, **named: Any
    ) -> str:
        """Refuse implementations of attention, of which this model has none."""
        if attn_implementation not in (None, "eager"):
            raise ValueError(
                f"attn_implementation={attn_implementation!r} is for attention layers of transformers; a "
                "memory runs on the engines of ttr. Leave it out."
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *others, **named)


class TTRModel(TTRPreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: TTRConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TTRBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = TTRRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the weights of a module that were not loaded; a part of a mixer takes those of a new
        mixer."""
        for layer, block in enumerate(self.layers):
            for name, part in block.mixer.named_modules():
                if part is module:
                    fresh = self.config.mixer(layer).get_submodule(name)
                    drawn = dict(
                        chain(fresh.named_parameters(recurse=False), fresh.named_buffers(recurse=False))
                    )
                    for key, tensor in chain(
                        part.named_parameters(recurse=False), part.named_buffers(recurse=False)
                    ):
                        initialization.copy_(tensor, shared_like(drawn[key], tensor))
                    return
        super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        output_hidden_states: bool | None = None,
        cache: Cache | None = None,
        cu_seq_lens_q: Int[Tensor, " bounds"] | None = None,
        cu_seq_lens_k: Int[Tensor, " bounds"] | None = None,
        seq_idx: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """The hidden state of every token.

        Args:
            attention_mask: [B, T], 0 at padding on either side, which is left out of the computation; its
                hidden states are 0. It may also cover the columns of earlier calls. Numbers 1, 2, ... mark
                the sequences packed in a row; so does a block-diagonal causal mask [B, 1, T, T].
            position_ids: [T], [B or 1, T] or [axes, B or 1, T], only used to find sequences packed in a row:
                one begins where they do not rise by one.
            past_key_values, cache: the cache to continue from, under either name; it is changed, unless the
                call is refused. Its states have one row per sequence.
            use_cache: also return the states; by default as configured, but not in training.
            cu_seqlens, cu_seq_lens_q, cu_seq_lens_k: boundaries [0, ..., T] of sequences packed along time,
                with B = 1.
            seq_idx: [T] or [B or 1, T], the number of every token's sequence in its row, rising.
            others: switches of transformers that have no effect here.

        Raises:
            ValueError: if inputs do not fit each other, or data are passed under a name that the model does
                not read.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the model either input_ids or inputs_embeds, and not both.")
        check_read(others)
        cache = self._cache(one_cache(past_key_values, cache), use_cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        packing = packing_of(
            (x.shape[0], x.shape[1]),
            attention_mask=attention_mask,
            position_ids=position_ids,
            seq_idx=seq_idx,
            cu_seqlens=cu_seqlens,
            cu_seq_lens_q=cu_seq_lens_q,
            cu_seq_lens_k=cu_seq_lens_k,
            read=tokens_read(cache),
            padding_last=cache is None and all(block.mixer.problem.function.causal for block in self.layers),
        )
        if (shard := distributed.current()) is not None:
            shard.of_call(x, cache, packing.cu_seqlens)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        last, entered = self._through_blocks(x, cache, packing, wanted)
        return BaseModelOutputWithPast(
            last_hidden_state=last,
            hidden_states=(*entered, last) if wanted else None,
            **{CACHE: cache},
        )

    def _through_blocks(
        self, x: Float[Tensor, "B T D"], cache: TTRCache | None, packing: Rows, wanted: bool
    ) -> tuple[Float[Tensor, "B T D"], list[Tensor]]:
        """What leaves the last norm, and, if ``wanted``, what enters each block. The cache moves on once all
        of them have run."""
        memories = tuple((block.mixer.problem, block.mixer.sizes) for block in self.layers)
        if cache is not None:
            cache.check(memories, packing.sequences)
        x, entered = packing.pack(x), []
        for block in self.layers:
            if wanted:
                entered.append(packing.unpack(x))
                x = packing.pack(entered[-1])  # so that the ones returned have gradients
            x = block(x, cache=cache, cu_seqlens=packing.cu_seqlens)
        if cache is not None:
            cache.commit(memories, packing.shape[1], packing)
        return packing.unpack(self.norm(x)), entered

    def _cache(self, cache: Cache | None, use_cache: bool | None) -> TTRCache | None:
        """The cache to use; one that is given is always used."""
        if use_cache is None:
            sharded = distributed.current() is not None  # after a shard there is more to read
            use_cache = self.config.use_cache and not self.training and not sharded
        if cache is None and not use_cache:
            return None
        if self.training and self.gradient_checkpointing:
            twice = "Gradient checkpointing runs every layer twice and would update its state twice"
            if cache is not None and cache.has_states():
                raise ValueError(
                    f"{twice}. Leave past_key_values out, or call activation_checkpointing_disable()."
                )
            logger.warning_once(f"{twice}: these calls return no cache, as with use_cache=False.")
            return None
        return TTRCache(self.config.num_hidden_layers) if cache is None else cache


class TTRForCausalLM(TTRPreTrainedModel, Generation, GenerationMixin):
    """The decoder with a language-model head; trained by Trainer, sampled by ``generate``."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: TTRConfig) -> None:
        super().__init__(config)
        self.model = TTRModel(config)
        for layer, block in enumerate(self.model.layers):
            if not block.mixer.problem.function.causal:
                raise ValueError(
                    f"In the memory of layer {layer} every token reads the ones after it, so "
                    "it cannot predict or generate them. "
                    "Use a causal memory, or TTRModel with use_cache=False for whole sequences."
                )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        cu_seq_lens_q: Int[Tensor, " bounds"] | None = None,
        cu_seq_lens_k: Int[Tensor, " bounds"] | None = None,
        seq_idx: Tensor | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, vocabulary], and the loss if there are labels; see ``TTRModel.forward`` for the other
        inputs.

        Args:
            labels: the tokens themselves, not shifted, and -100 at tokens without a loss. A token is
                predicted only from tokens of its own sequence, so the first of each has no loss, and padding
                has none.
            logits_to_keep: number of last columns that get logits, or their indices; 0 for all. The loss is
                then that of these columns.
            others: also ``num_items_in_batch`` and ``shift_labels``, which the loss of transformers reads.
        """
        of_loss = {name: others.pop(name) for name in READ_BY_THE_LOSS if name in others}
        cache = one_cache(past_key_values, cache)
        packed = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cu_seqlens": cu_seqlens,
            "cu_seq_lens_q": cu_seq_lens_q,
            "cu_seq_lens_k": cu_seq_lens_k,
            "seq_idx": seq_idx,
        }
        x = input_ids if inputs_embeds is None else inputs_embeds
        if labels is not None:  # before the cache advances
            labels = within_sequences(labels, x, of_loss, read=tokens_read(cache), **packed)
        elif self.training and x is not None and "shift_labels" not in of_loss:
            warn_of_first_labels(x, read=tokens_read(cache), **packed)
        outputs = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            **packed,
            **others | {"return_dict": True},
        )
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, columns])
        return CausalLMOutputWithPast(
            loss=self._loss(logits, columns, labels, **of_loss),
            logits=logits,
            hidden_states=outputs.hidden_states,
            **{CACHE: outputs.get(CACHE)},
        )

    def _loss(
        self,
        logits: Float[Tensor, "B columns V"],
        columns: slice | Tensor,
        labels: Int[Tensor, "B T"] | None,
        shift_labels: Int[Tensor, "B T"] | None = None,
        **others: Any,
    ) -> Float[Tensor, ""] | None:
        """The loss of the columns that have logits; None without labels."""
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        if shift_labels is None:
            return None
        return self.loss_function(
            logits=logits,
            labels=labels,
            shift_labels=shift_labels[:, columns].contiguous(),
            vocab_size=self.config.vocab_size,
            **others,
        )
