"""What ``generate`` asks of the model beyond its forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any, NoReturn

from torch import Tensor
from transformers import GenerationMixin
from transformers.generation import GenerationConfig, GenerationMode

from ttr.models.arguments import one_cache
from ttr.models.cache import CACHE, TTRCache
from ttr.models.packing import packing_of

BOUNDS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
"""The arguments that only packed sequences have."""


class Generation(GenerationMixin):
    """``generate`` with a ``TTRCache``, which assisted decoding takes back by ``crop``.

    A model names ``GenerationMixin`` among its own bases, too: transformers looks for it there.
    """

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """False: the states of memories are not keys and values."""
        return False

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        *others: Any,
    ) -> None:
        """Give ``generate`` a cache to start with, which assisted decoding and chunked prefill need."""
        one_cache(model_kwargs.get(CACHE), None)
        _check_rows(model_kwargs)
        if model_kwargs.get(CACHE) is None and generation_config.use_cache is not False:
            kind = generation_config.cache_implementation
            if kind not in (None, "dynamic", "dynamic_full"):  # the last is what 5.12 gives an assistant
                raise ValueError(
                    f"cache_implementation={kind!r} is for keys and values; this model has a TTRCache with "
                    "the states of its memories. Leave it out."
                )
            model_kwargs[CACHE] = TTRCache(self.config.num_hidden_layers)
        else:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, generation_mode, *others)
        if generation_config.is_assistant and isinstance(model_kwargs.get(CACHE), TTRCache):
            model_kwargs[CACHE].activate_past_recording()

    @wraps(GenerationMixin._assisted_decoding)
    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        """Record the past while candidates are taken back: a recording grows with every call."""
        cache = kwargs.get(CACHE)
        layers = cache.layers if isinstance(cache, TTRCache) else []
        recorded = [layer.record_past for layer in layers]
        for layer in layers:
            layer.activate_past_recording()
        try:
            return super()._assisted_decoding(*args, **kwargs)
        finally:
            for layer, record_past in zip(layers, recorded):
                layer.record_past = record_past

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse continuous batching, and with it ``generate_batch``.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "Continuous batching pages keys and values of attention layers, and this model has states of "
            "memories. Use generate with a padded batch: tokenizer(prompts, padding=True), padding_side left."
        )


def _check_rows(given: Mapping[str, Any]) -> None:
    """Refuse rows with several sequences, of which only the last could go on.

    Raises:
        ValueError: if they are packed, by any of the spellings that a call of the model takes.
    """
    packed = [name for name in BOUNDS if given.get(name) is not None]
    mask, position = given.get("attention_mask"), given.get("position_ids")
    if isinstance(mask, Tensor) and (mask > 1).any():
        packed.append("attention_mask")
    elif isinstance(position, Tensor):
        rows = position.shape[-2] if position.ndim > 1 else 1
        mask = None if mask is None else mask[:, -position.shape[-1] :]
        shape = (rows if mask is None else len(mask), position.shape[-1])
        if packing_of(shape, attention_mask=mask, position_ids=position).sequences > shape[0]:
            packed.append("position_ids")
    if packed:
        raise ValueError(
            f"generate goes on with one sequence per row, but several are packed in a row by "
            f"{' and '.join(packed)}. Pad them instead: tokenizer(prompts, padding=True), padding_side left."
        )
