"""A user's pretrained model of transformers as what a comparison begins with.

Memories take the places of some of its attention layers, learn their outputs, and are then trained on the
text with the rest of the model, beside the unchanged model.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from safetensors.torch import load
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from ttr.experiments.memories import Memory, memories
from ttr.experiments.progress import quiet
from ttr.experiments.saved_model import opened
from ttr.experiments.settings import CompareSettings, numbers_in
from ttr.integrations.transformers.conversion import CONVERTED, convert, convertible, decoder_layers
from ttr.integrations.transformers.distillation import converted_layers, distillation_loss, match_scales
from ttr.layer.architecture import Architecture
from ttr.tasks.tokens import Encoding
from ttr.values import checks

REFERENCE = "pretrained-model"
DISTILLED = 0.5
"""Steps of distillation for one on text."""
SERVED = 2048
"""The tokens after which states and speeds are measured, where the model reads as many."""
EVERY_OTHER, ALL = "every-other", "all"
"""Words of --convert: the first, third, ... of the attention layers that ``convert`` takes, or all."""


class Pretrained:
    """A decoder of transformers, in float32, without dropout.

    Args:
        config: its configuration as JSON.
        weights: its tensors, as a safetensors file.
        layers: the numbers of the layers in which memories replace attention.
        folder: where it is from, if that is known.
    """

    reference = REFERENCE

    def __init__(
        self, config: bytes, weights: bytes, layers: Sequence[int], folder: Path | None = None
    ) -> None:
        self.config, self.weights = config, weights
        self.layers, self.folder = tuple(layers), folder

    @staticmethod
    def of_folder(folder: Path, which: str | None) -> Pretrained:
        """The model that ``save_pretrained`` put into a folder; ``which`` layers are converted is what
        --convert says.

        Raises:
            ValueError: if there is no such model, or it has no such layers.
        """
        model = _attending(folder)
        layers = _chosen(model, EVERY_OTHER if which is None else which)
        with tempfile.TemporaryDirectory() as place, quiet():
            model.save_pretrained(place, max_shard_size="1000TB")
            weights = (Path(place) / "model.safetensors").read_bytes()
        config = model.config.to_dict()
        config.pop("transformers_version", None)
        # what is drawn by chance in a step would have to be saved for it to be resumed
        config |= {name: 0.0 for name in config if "drop" in name and isinstance(config[name], float)}
        return Pretrained(json.dumps(config, sort_keys=True).encode(), weights, layers, folder)

    @staticmethod
    def of_cell(arguments: Mapping[str, Any], folder: Path) -> Pretrained:
        """The one whose files the cells of ``folder`` read."""
        inputs = folder / "inputs"
        config, weights = ((inputs / arguments[name]).read_bytes() for name in ("config", "weights"))
        return Pretrained(config, weights, arguments["convert"])

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of configuration and weights."""
        return hashlib.sha256(self.config + self.weights).hexdigest()

    @property
    def longest(self) -> int | None:
        """The tokens that the model reads at most; None for any number."""
        return json.loads(self.config).get("max_position_embeddings")

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        model = self._model()
        return {
            "pretrained": str(self.folder),
            "sha256": self.sha256,
            "model": type(model).__name__,
            "layers": len(decoder_layers(model)),
            "converted": list(self.layers),
            "distilled": DISTILLED,
        }

    def memories(self, settings: CompareSettings) -> tuple[Memory, ...]:
        numbers = ", ".join(map(str, self.layers))
        origin = f"{self.folder} sha256:{self.sha256}, of which layers {numbers} are converted"
        remedy = "Let --convert name {0} layers, or a multiple of that."
        return memories(settings, len(self.layers), remedy, Memory(REFERENCE, [], origin))

    def fit(self, found: Sequence[Memory], vocabulary: int) -> None:
        known = self._model().get_input_embeddings().weight.shape[0]
        if vocabulary > known:
            raise ValueError(
                f"The tokenizer in {self.folder} has {vocabulary:,} tokens, but the model only {known:,}. "
                "Put the tokenizer of this model there."
            )
        for memory in found:
            try:
                self.build(memory, 0)
            except ValueError as error:
                raise ValueError(f"{memory.name} does not fit into the model. {error}") from error

    def files(self) -> dict[str, bytes]:
        return {"config": self.config, "weights": self.weights}

    def arguments(self, memory: Memory) -> dict[str, Any]:
        return {"convert": list(self.layers)}

    def build(self, memory: Memory, seed: int) -> PreTrainedModel:
        model = self._model()
        if not memory.layers:
            return model
        turns = [Architecture.from_dict(layer) for layer in memory.layers]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return convert(model, self.layers, to=turns * (len(self.layers) // len(turns)))

    def decodes(self, memory: Memory) -> bool:
        return True

    def after(self, context: int) -> int:
        return min(SERVED, self.longest or SERVED)

    def distilled(self, memory: Memory) -> float:
        return DISTILLED if memory.layers else 0.0

    def distillation(
        self, model: PreTrainedModel, batch: Callable[[int], Int[Tensor, "B T"]]
    ) -> tuple[Callable[[int], Float[Tensor, ""]], nn.Module]:
        """The loss of a step of distillation, which reads ``batch(step)``, and the part of a model that
        learns by it; the scales of its outputs are set by the first batch."""
        teacher = self._model().to(model.device)
        with checks(values=False):  # numbers that are not finite are a result here
            match_scales(model, teacher, batch(0))

        @checks(values=False)
        def loss_of(step: int) -> Float[Tensor, ""]:
            return distillation_loss(model, teacher, batch(step))

        return loss_of, nn.ModuleList(converted_layers(model))

    def save(self, model: PreTrainedModel, encoding: Encoding, folder: Path) -> None:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast.from_pretrained(self.folder, local_files_only=True).save_pretrained(folder)

    def _model(self) -> PreTrainedModel:
        """The pretrained model, for evaluation."""
        config = AutoConfig.for_model(**json.loads(self.config))
        cls, tensors = getattr(transformers, config.architectures[0]), load(self.weights)
        with quiet():
            return cls.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)


def _attending(folder: Path) -> PreTrainedModel:
    """The model in a folder, with the attention that it was trained with.

    Raises:
        ValueError: if there is none that can be a starting point.
    """
    remedy = "Name a folder where save_pretrained put a model of transformers and its tokenizer."
    model = opened(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"There is no tokenizer.json in {folder}. {remedy}")
    if hasattr(model.config, CONVERTED):
        raise ValueError(
            f"The model in {folder} has memories in place of attention. Name the one that it was made from."
        )
    if not hasattr(transformers, type(model).__name__):
        raise ValueError(f"{type(model).__name__} is no model of transformers itself. {remedy}")
    return model


def _chosen(model: PreTrainedModel, which: str) -> list[int]:
    """The layers that --convert names.

    Raises:
        ValueError: if there are none, or the model has no such attention.
    """
    found = convertible(model)
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention layers that memories can replace: they need the "
            "projections q_proj, k_proj, v_proj and o_proj, and no window. Use a model such as Llama or Qwen."
        )
    if which in (EVERY_OTHER, ALL):
        return found if which == ALL else found[::2]
    numbers = numbers_in(which, "--convert")
    if not numbers or len({*numbers}) < len(numbers) or not {*numbers} <= {*found}:
        raise ValueError(
            f"--convert takes {EVERY_OTHER}, {ALL}, or some of the layers {', '.join(map(str, found))}, each "
            f"once, not {which!r}."
        )
    return list(numbers)
