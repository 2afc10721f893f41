"""One Hugging Face decoder for every memory. Importing this module registers it with the Auto classes of
transformers, which import it themselves where ttr is installed (``ttr_autoload``)."""

from __future__ import annotations

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto import modeling_auto as names

from ttr.models.cache import TTRCache
from ttr.models.classification import (
    TTRForQuestionAnswering,
    TTRForSequenceClassification,
    TTRForTokenClassification,
)
from ttr.models.configuration import TTRConfig
from ttr.models.export import ExportableDecoder
from ttr.models.modeling import TTRForCausalLM, TTRModel

AutoConfig.register(TTRConfig.model_type, TTRConfig, exist_ok=True)
for auto, named, model in (
    (AutoModel, names.MODEL_MAPPING_NAMES, TTRModel),
    (AutoModelForCausalLM, names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, TTRForCausalLM),
    (
        AutoModelForSequenceClassification,
        names.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        TTRForSequenceClassification,
    ),
    (
        AutoModelForTokenClassification,
        names.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        TTRForTokenClassification,
    ),
    (
        AutoModelForQuestionAnswering,
        names.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        TTRForQuestionAnswering,
    ),
):
    auto.register(TTRConfig, model, exist_ok=True)
    # Trainer (label smoothing), pipelines and lm-eval look for the name of a class in these dictionaries
    named[TTRConfig.model_type] = model.__name__
    # `transformers serve` looks for the class among the attributes of transformers, of which there may be two
    # module objects (transformers.processing_utils makes a second one), so their class gets it
    setattr(type(transformers), model.__name__, model)

__all__ = [
    "ExportableDecoder",
    "TTRCache",
    "TTRConfig",
    "TTRForCausalLM",
    "TTRForQuestionAnswering",
    "TTRForSequenceClassification",
    "TTRForTokenClassification",
    "TTRModel",
]
