"""What ``generate`` asks of the model beyond its forward pass."""

from __future__ import annotations

from typing import Any, NoReturn

from transformers import GenerationMixin
from transformers.generation import GenerationConfig

from ttr.models.cache import TTRCache


class Generation(GenerationMixin):
    """``generate`` with a ``TTRCache``, which assisted decoding takes back by ``crop``."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """False: the states of memories are not keys and values."""
        return False

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *others: Any
    ) -> None:
        """Give ``generate`` a cache to start with, which assisted decoding and chunked prefill need."""
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *others)
            return
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r} is for keys and values; "
                "this model has a TTRCache with the states of its memories. Leave it out."
            )
        cache = model_kwargs["past_key_values"] = TTRCache(self.config.num_hidden_layers)
        if generation_config.is_assistant:
            cache.activate_past_recording()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse continuous batching, and with it ``generate_batch``.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "Continuous batching pages keys and values of attention layers, and this model has states of "
            "memories. Use generate with a padded batch: tokenizer(prompts, padding=True), padding_side left."
        )
