"""What ``generate`` asks of the model beyond its forward pass."""

from __future__ import annotations

from functools import wraps
from typing import Any, NoReturn

from transformers import GenerationMixin
from transformers.generation import GenerationConfig, GenerationMode

from ttr.models.cache import TTRCache


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
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            kind = generation_config.cache_implementation
            if kind not in (None, "dynamic", "dynamic_full"):  # the last is what 5.12 gives an assistant
                raise ValueError(
                    f"cache_implementation={kind!r} is for keys and values; this model has a TTRCache with "
                    "the states of its memories. Leave it out."
                )
            model_kwargs["past_key_values"] = TTRCache(self.config.num_hidden_layers)
        else:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, generation_mode, *others)
        if generation_config.is_assistant and isinstance(model_kwargs.get("past_key_values"), TTRCache):
            model_kwargs["past_key_values"].activate_past_recording()

    @wraps(GenerationMixin._assisted_decoding)
    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        """Record the past while candidates are taken back: a recording grows with every call."""
        cache = kwargs.get("past_key_values")
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
