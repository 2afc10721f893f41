"""Folders of flash-linear-attention's models, opened as a ``TTRForCausalLM`` and written again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from ttr.integrations.fla.families import ATTENTION, FAMILIES, REFUSED, Family
from ttr.integrations.fla.layers import Settings, attention, attention_sizes
from ttr.integrations.weights import converted, reverted
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.models.configuration import SIZES

DEFAULTS = {
    "hidden_ratio": 4,
    "intermediate_size": None,
    "hidden_act": "swish",
    "norm_eps": 1e-6,
    "attn": None,
    "attnres_block_size": None,
    "elementwise_affine": True,
    "fuse_norm": True,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_cache": True,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""fla's defaults of the settings that all families have."""

ONLY = {"hidden_act": ("swish",), "attnres_block_size": (None,), "elementwise_affine": (True,)}
"""The values of these settings that our decoder has."""

ATTENTION_DEFAULTS = {
    "layers": [],
    "num_kv_heads": None,
    "qkv_bias": False,
    "window_size": None,
    "rope_theta": 10000.0,
}
"""fla's defaults in a specification of ``attn``."""

REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers")

WITHOUT_EFFECT = {
    "attn_mode",
    "fuse_swiglu",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "use_l2warp",
    "max_position_embeddings",
    "model_type",
    "auto_map",
    "torch_dtype",
    "_name_or_path",
}
"""Settings that change no logits."""

DECODER = {
    "model.embeddings.weight": "model.embed_tokens.weight",
    "model.norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
BLOCK = {
    "attn_norm.weight": "mixer_norm.weight",
    "mlp_norm.weight": "mlp_norm.weight",
    **{f"mlp.{name}_proj.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
}
"""fla's names of the tensors around the layers -> ours."""


def from_pretrained(folder: str | PathLike[str], *, dtype: torch.dtype | None = None) -> TTRForCausalLM:
    """A model of flash-linear-attention, from the folder where it was saved, with the same logits.

    ``save_pretrained`` of the result writes a folder of ttr's, which ``AutoModelForCausalLM`` opens; that of
    this module one of fla's. The tokenizer is fla's: load it by ``AutoTokenizer`` from the same folder.

    Args:
        folder: holds config.json and weights as safetensors, whole or in shards.
        dtype: of the weights; None for that of the saved embeddings.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if there is no such folder, the model is of another family, has a setting that our layers
            lack, or its tensors are not those of its configuration.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).exists():
        raise ValueError(
            f"There is no {folder / CONFIG_NAME}. Give the folder of a model; one of a hub has to be "
            "downloaded first, as by huggingface_hub.snapshot_download."
        )
    saved = json.loads((folder / CONFIG_NAME).read_text())
    family, settings = _family(saved)
    config = _config(family, settings)
    config.fla = saved
    tensors = family.to_layers(_read(folder))
    with torch.device("meta"):
        model = TTRForCausalLM(config)
    table = _table(model, family, settings)
    _check_names(table, tensors)
    ours = converted(tensors, table, model.state_dict())
    model.load_state_dict({"lm_head.weight": ours["model.embed_tokens.weight"]} | ours, assign=True)
    model.tie_weights()
    if (folder / GENERATION_CONFIG_NAME).exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.to(dtype or tensors["model.embeddings.weight"].dtype).eval()


def save_pretrained(model: TTRForCausalLM, folder: str | PathLike[str]) -> None:
    """Write a model that ``from_pretrained`` opened, trained further or not, as one of fla's: config.json,
    generation_config.json and safetensors, under fla's names.

    Raises:
        ValueError: if the model does not come from fla, or its generation settings contradict each other.
    """
    saved = getattr(model.config, "fla", None)
    if saved is None:
        raise ValueError(
            "This model was not opened by ttr.integrations.fla.from_pretrained, so it has no settings of "
            "fla's. Save it by its own save_pretrained."
        )
    family, settings = _family(saved)
    tensors = family.from_layers(reverted(model.state_dict(), _table(model, family, settings)))
    folder = Path(folder)
    model.generation_config.save_pretrained(folder)  # which makes the folder, if it does not refuse
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})
    saved = saved | {"vocab_size": model.config.vocab_size}
    (folder / CONFIG_NAME).write_text(json.dumps(saved, indent=2) + "\n")


# ------------------------------------------------------------------------------------------------ settings
def _family(saved: dict[str, Any]) -> tuple[Family, Settings]:
    """The family of a config.json, and its settings.

    Raises:
        ValueError: if it cannot be expressed here.
    """
    name = saved.get("model_type")
    if name in REFUSED:
        raise ValueError(
            f"config.json has model_type {name!r}: {REFUSED[name]}. This model has to stay fla's."
        )
    if name not in FAMILIES:
        raise ValueError(
            f"config.json has model_type {name!r}. Models of fla that can be opened have one of "
            f"{', '.join(FAMILIES)}."
        )
    family = FAMILIES[name]
    defaults = DEFAULTS | family.defaults
    known = defaults.keys() | WITHOUT_EFFECT | PreTrainedConfig().to_dict().keys() | set(REQUIRED)
    _check_known(saved, known, name)
    lacking = [key for key in REQUIRED if key not in saved]
    if lacking:
        raise ValueError(f"config.json lacks {', '.join(lacking)}. Add what the model was built with.")
    settings = Settings(**defaults | saved)
    _check_values(vars(settings), ONLY | family.only)
    return family, settings


def _check_known(settings: dict[str, Any], known: Set[str], where: str) -> None:
    unknown = [key for key, value in settings.items() if key not in known and value not in (None, False)]
    if unknown:
        raise ValueError(
            f"config.json sets {', '.join(unknown)}, which fla 0.6.0 does not have for {where}. If that does "
            "not change what the model computes, take it out of config.json."
        )


def _check_values(settings: dict[str, Any], only: dict[str, tuple[Any, ...]]) -> None:
    for key, allowed in only.items():
        if settings[key] not in allowed:
            raise ValueError(
                f"config.json has {key} = {json.dumps(settings[key])}, which our layers cannot "
                f"express; they have {' or '.join(map(json.dumps, allowed))}. This model has to stay fla's."
            )


def _config(family: Family, s: Settings) -> TTRConfig:
    layers = [(family.layer(s), family.sizes(s))] * s.num_hidden_layers
    for spec in _attention_specs(s):
        for layer in spec.layers:
            layers[layer] = attention(spec), attention_sizes(spec)
    memories, sizes = zip(*layers)
    hidden = 256 * -(-int(s.hidden_size * (s.hidden_ratio or 4) * 2 / 3) // 256)
    return TTRConfig(
        vocab_size=s.vocab_size,
        hidden_size=s.hidden_size,
        num_hidden_layers=s.num_hidden_layers,
        intermediate_size=s.intermediate_size or hidden,
        layers=memories,
        norm_eps=s.norm_eps,
        initializer_range=s.initializer_range,
        use_cache=s.use_cache,
        tie_word_embeddings=s.tie_word_embeddings,
        pad_token_id=s.pad_token_id,
        bos_token_id=s.bos_token_id,
        eos_token_id=s.eos_token_id,
        **{name: [each[name] for each in sizes] for name in SIZES},
    )


def _attention_specs(s: Settings) -> list[Settings]:
    """What ``attn`` says of the layers that are softmax attention."""
    specs = [s.attn] if isinstance(s.attn, dict) else s.attn or []
    free = set(range(s.num_hidden_layers))
    for spec in specs:
        layers = spec.get("layers", [])
        if not free.issuperset(layers) or "num_heads" not in spec:
            raise ValueError(
                f"config.json has attn for layers {layers} with {spec.get('num_heads')} heads. It "
                f"needs num_heads, and layers from 0 to {s.num_hidden_layers - 1}, each once."
            )
        free -= set(layers)
        _check_known(spec, {"num_heads", *ATTENTION_DEFAULTS}, "attn")
    defaults = ATTENTION_DEFAULTS | {"hidden_size": s.hidden_size, "qk_norm": False}
    return [Settings(**defaults | spec) for spec in specs]


# ------------------------------------------------------------------------------------------------- tensors
def _table(model: TTRForCausalLM, family: Family, s: Settings) -> dict[str, str]:
    """fla's name of every tensor of the model -> ours."""
    named = dict(DECODER)
    if s.tie_word_embeddings:
        del named["lm_head.weight"]
    of_attention = {layer for spec in _attention_specs(s) for layer in spec.layers}
    for layer, block in enumerate(model.model.layers):
        place, there = f"model.layers.{layer}.", block.mixer.state_dict()
        names = ATTENTION if layer in of_attention else family.names(s)
        named |= {f"{place}{fla}": f"{place}{ours}" for fla, ours in BLOCK.items()}
        named |= {
            f"{place}attn.{fla}": f"{place}mixer.{ours}" for fla, ours in names.items() if ours in there
        }
    return named


def _read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    files = [SAFE_WEIGHTS_NAME]
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    lacking = [file for file in files if not (folder / file).exists()]
    if lacking:
        raise ValueError(
            f"{folder} lacks {', '.join(lacking)}. Weights are read from safetensors alone: save the model "
            "with fla's save_pretrained."
        )
    return {name: x for file in files for name, x in load_file(folder / file).items()}


def _check_names(table: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Raise unless the folder has exactly the tensors of the table."""
    missing, unexpected = _some(table.keys() - tensors.keys()), _some(tensors.keys() - table.keys())
    problems = ([f"lack {missing}"] if missing else []) + ([f"also have {unexpected}"] if unexpected else [])
    if problems:
        raise ValueError(
            f"The weights {' and '.join(problems)}, by what config.json says. Give the configuration that "
            "the model was saved with."
        )


def _some(names: Iterable[str], shown: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
