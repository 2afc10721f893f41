"""The configuration of a decoder: its sizes and the memory of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

from transformers import PreTrainedConfig

import ttr
from ttr.layer.architecture import Architecture
from ttr.layer.mixer import Mixer
from ttr.models.conversion import SETTINGS, as_saved, described
from ttr.models.tensor_parallel import MIXERS
from ttr.problem import Problem

VERSION = "ttr_version"

SIZES = ("num_heads", "key_size", "value_size", "key_heads", "value_heads")
"""The settings that are the sizes of the mixers."""

Size = int | list[int | None] | None
"""One number for all layers, or one for each of them."""


@no_type_check  # transformers gives the class an __init__ that takes more than its signature says
class TTRConfig(PreTrainedConfig):
    """A decoder in which every layer has its own memory.

    Args:
        vocab_size, hidden_size, num_hidden_layers: as in every transformers decoder.
        num_heads, key_size, value_size, key_heads, value_heads: sizes of the mixers; None for the defaults of
            ``ttr.nn.Mixer``. Each is one number for all layers, or a list of one per layer, which is stored
            as one number where all layers have the same.
        intermediate_size: hidden size of the gated MLP; None for 8/3 of ``hidden_size``, rounded up to a
            multiple of 8.
        layers: the memory of every layer, or one for all of them. Each is a name of ``ttr.catalogue``, an
            Architecture, a Problem, or the ``to_dict`` of one of these. Stored as a list of names and
            descriptions, one per layer.
        norm_eps: epsilon of the norms before mixer and MLP.
        initializer_range: standard deviation of embeddings, MLP and head at initialisation; a mixer
            initialises its own weights.
        engine: the engine that computes the memories, or "auto".

    Raises:
        ValueError: if a memory is unknown, or the number of memories or sizes is not that of the layers.
    """

    model_type = "ttr"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # without annotation: these are no fields
    attribute_map = {"num_attention_heads": "num_heads"}
    # what from_pretrained(..., tp_plan="auto") divides among processes, beside embeddings and head
    base_model_tp_plan = MIXERS | {
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    vocab_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_heads: int | list[int] = 4
    key_size: Size = None
    value_size: Size = None
    key_heads: Size = None
    value_heads: Size = None
    intermediate_size: int | None = None
    layers: Any = "gated-deltanet"
    norm_eps: float = 1e-6
    initializer_range: float = 0.02
    engine: str = "auto"
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> TTRConfig:
        """As in transformers. In a configuration that does not say which version of ttr saved it, a name of
        the catalogue means what it meant before versions were saved."""
        if VERSION not in config_dict and "layers" in config_dict:
            config_dict = config_dict | {"layers": as_saved(config_dict["layers"])}
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the version of ttr."""
        return super().to_dict() | {VERSION: ttr.__version__}

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop(VERSION, None)
        for old, today in SETTINGS.items():
            if old in kwargs:
                setattr(self, today, kwargs.pop(old))
        if self.intermediate_size is None:
            self.intermediate_size = 8 * -(-self.hidden_size // 3)
        single = not isinstance(self.layers, list | tuple)
        self.layers = [
            _describe(memory)
            for memory in ([self.layers] * self.num_hidden_layers if single else self.layers)
        ]
        super().__post_init__(**kwargs)
        self.memories()
        for name in SIZES:
            setattr(self, name, self._size(name))

    @property
    def layer_types(self) -> list[str]:
        """The kind of every layer in the words of transformers, for generic code. All carry a state along the
        sequence and none uses its attention interface; so accelerate refuses to split their sequences."""
        return ["linear_attention"] * self.num_hidden_layers

    @layer_types.setter
    def layer_types(self, types: list[str] | None) -> None:
        if types is not None and list(types) != self.layer_types:
            raise ValueError(
                f"layer_types = {types}, but it follows from the memories, and is {self.layer_types}. Leave "
                "it out, and name the memory of every layer in layers."
            )

    def memories(self) -> list[Architecture | Problem]:
        """The memory of every layer, as objects.

        Raises:
            ValueError: if one is unknown, or their number is not that of the layers.
        """
        if len(self.layers) != self.num_hidden_layers:
            raise ValueError(
                f"layers names {len(self.layers)} memories, but num_hidden_layers is "
                f"{self.num_hidden_layers}. "
                "Name one memory per layer, or a single one for all."
            )
        return [_memory(description, layer) for layer, description in enumerate(self.layers)]

    def sizes(self, layer: int) -> dict[str, int | None]:
        """The sizes of one layer, by their names in ``ttr.nn.Mixer``.

        Raises:
            ValueError: if the number of sizes is not that of the layers.
        """
        sizes = {name.removeprefix("num_"): self._size(name) for name in SIZES}
        return {name: size[layer] if isinstance(size, list) else size for name, size in sizes.items()}

    def mixer(self, layer: int) -> Mixer:
        """A fresh mixer for one layer."""
        return Mixer(
            self.hidden_size,
            self.memories()[layer],
            **self.sizes(layer),
            layer=layer,
            layers=self.num_hidden_layers,
            engine=self.engine,
        )

    def _size(self, name: str) -> Size:
        """A size of the mixers: one number, or a list if layers differ in it."""
        given = getattr(self, name)
        if not isinstance(given, list | tuple):
            return given
        if len(given) != self.num_hidden_layers:
            raise ValueError(
                f"{name} gives {len(given)} numbers, but num_hidden_layers is {self.num_hidden_layers}. "
                "Give one number per layer, or a single one for all."
            )
        return list(given) if any(size != given[0] for size in given) else given[0]


def _describe(memory: Any) -> Any:
    """A memory in a JSON-ready form."""
    return memory.to_dict() if isinstance(memory, Architecture | Problem) else memory


def _memory(description: Any, layer: int) -> Architecture | Problem:
    """The memory given by a name or a description."""
    if isinstance(description, Mapping):
        if "weights" in description:
            return Problem.from_dict(description)
        return Architecture.from_dict(described(description))
    if not isinstance(description, str):
        raise ValueError(
            f"The memory of layer {layer} is {description!r}. "
            "Give a name of ttr.catalogue, an Architecture, a Problem, or the to_dict() of one."
        )
    try:
        return ttr.catalogue[description]
    except KeyError as unknown:
        raise ValueError(f"Layer {layer}: {unknown}") from None
