"""One Hugging Face decoder for every memory. Importing this module registers it with the Auto classes of
transformers."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ttr.models.cache import TTRCache
from ttr.models.configuration import TTRConfig
from ttr.models.modeling import TTRForCausalLM, TTRModel

AutoConfig.register(TTRConfig.model_type, TTRConfig, exist_ok=True)
AutoModel.register(TTRConfig, TTRModel, exist_ok=True)
AutoModelForCausalLM.register(TTRConfig, TTRForCausalLM, exist_ok=True)

__all__ = ["TTRCache", "TTRConfig", "TTRForCausalLM", "TTRModel"]
