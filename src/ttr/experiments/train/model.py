"""The model of a training run: a new one, or that of a folder."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel, set_seed

from ttr.experiments.errors import UserError
from ttr.experiments.memories import layer_names
from ttr.experiments.saved_model import check_context, opened
from ttr.experiments.train.settings import TrainSettings
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.tasks.tokens import Encoding

PROBED = 8
"""Tokens of a document by which it is seen whether the one before it is read."""
SAME = 1e-5
"""The distance of logits, relative to the largest, up to which they are the same numbers, rounded."""


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
    model = opened(settings.start)
    text = model.config.get_text_config()
    known = settings.tokenizer is not None or (settings.start / "tokenizer.json").exists()
    if not known and text.vocab_size != encoding.vocabulary:
        raise UserError(
            f"The model in {settings.start} has {text.vocab_size:,} tokens, and there is no tokenizer.json "
            "that makes them of text. Name its tokenizer with --tokenizer."
        )
    if encoding.vocabulary > text.vocab_size:
        raise UserError(
            f"The model in {settings.start} has {text.vocab_size:,} tokens, and the text "
            f"{encoding.vocabulary:,}. Name its tokenizer with --tokenizer."
        )
    check_context(settings.start, getattr(text, "max_position_embeddings", None), settings.context)
    return model


@torch.no_grad()
def reads_across(model: PreTrainedModel, context: int) -> bool:
    """Whether a model reads documents that are packed in a row across their boundary, which it gets as
    position_ids: it takes none, or layers of it ignore them."""
    place = torch.arange(min(context, 2 * PROBED), device=model.device)
    half, training = (len(place) + 1) // 2, model.training
    first = torch.stack([torch.zeros_like(place), torch.ones_like(place)])
    ids = torch.where(place < half, first, 0)
    takes = "position_ids" in inspect.signature(model.forward).parameters
    packed = {"position_ids": (place % half).expand_as(ids)} if takes else {}
    logits = model.eval()(input_ids=ids, use_cache=False, **packed).logits[:, half:].float()
    model.train(training)
    return not torch.allclose(*logits, rtol=0.0, atol=SAME * float(logits.abs().max()))
