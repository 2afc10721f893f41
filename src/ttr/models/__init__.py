"""One Hugging Face decoder for every memory; importing this module makes the Auto classes of transformers
know it."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ttr.models.cache import TTRCache
from ttr.models.configuration import TTRConfig
from ttr.models.modeling import TTRForCausalLM, TTRModel

AutoConfig.register(TTRConfig.model_type, TTRConfig, exist_ok=True)
AutoModel.register(TTRConfig, TTRModel, exist_ok=True)
AutoModelForCausalLM.register(TTRConfig, TTRForCausalLM, exist_ok=True)

__all__ = ["TTRCache", "TTRConfig", "TTRForCausalLM", "TTRModel"]
