"""The model of a training run: a new one, or that of a folder."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, set_seed

from ttr.experiments.errors import UserError
from ttr.experiments.memories import layer_names
from ttr.experiments.train.settings import TrainSettings
from ttr.integrations.transformers import from_pretrained
from ttr.integrations.transformers.conversion import CONVERTED
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.tasks.tokens import Encoding


def model_of(settings: TrainSettings, encoding: Encoding) -> PreTrainedModel:
    """The model to train, with weights in float32; a new one is drawn from the seed.

    Raises:
        ValueError: if a layer is unknown, or the folder holds no causal language model of this vocabulary and
            context.
    """
    set_seed(settings.seed)
    if settings.start is None:
        names = layer_names(settings.layers, settings.depth)
        config = TTRConfig(
            vocab_size=encoding.vocabulary,
            hidden_size=settings.width,
            num_hidden_layers=settings.depth,
            num_heads=settings.width // settings.head_size,
            layers=names * (settings.depth // len(names)),
            eos_token_id=encoding.end,
        )
        return TTRForCausalLM(config)
    model = _loaded(settings)
    text = model.config.get_text_config()
    if encoding.vocabulary > text.vocab_size:
        raise UserError(
            f"The model in {settings.start} has {text.vocab_size:,} tokens, and the text "
            f"{encoding.vocabulary:,}. Name its tokenizer with --tokenizer."
        )
    longest = getattr(text, "max_position_embeddings", None)
    if longest is not None and longest < settings.context:
        raise UserError(
            f"The model in {settings.start} reads {longest:,} tokens at most. "
            f"Use --context {longest} or less."
        )
    return model


def _loaded(settings: TrainSettings) -> PreTrainedModel:
    folder = settings.start
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no model: there is no config.json. Name a folder that one was saved in."
        )
    try:
        converted = getattr(AutoConfig.from_pretrained(folder), CONVERTED, None)
        load = from_pretrained if converted else AutoModelForCausalLM.from_pretrained
        return load(folder, dtype=torch.float32)
    except OSError as error:
        raise UserError(f"The model in {folder} cannot be read: {' '.join(str(error).split())}") from None
