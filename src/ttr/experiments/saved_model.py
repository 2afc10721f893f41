"""The causal language model in a folder of the user's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ttr.experiments.progress import quiet
from ttr.integrations.transformers import from_pretrained
from ttr.integrations.transformers.conversion import CONVERTED


def opened(folder: Path) -> PreTrainedModel:
    """The model that ``save_pretrained`` put there, of ttr, of transformers, or converted, with weights in
    float32. No code of the folder is run, and weights are read from safetensors alone.

    Raises:
        ValueError: if there is none, or it lacks weights.
    """
    remedy = "Name a folder where save_pretrained put a causal language model, as safetensors."
    if not (folder / "config.json").is_file():
        raise ValueError(f"There is no config.json in {folder}. {remedy}")
    loading = {
        "dtype": torch.float32,
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    try:
        config = json.loads((folder / "config.json").read_bytes())
        config.pop("auto_map", None)  # the names of code in the folder
        with quiet():
            if CONVERTED in config:
                model, loaded = from_pretrained(folder, **loading)
            else:
                known = AutoConfig.for_model(**config)
                model, loaded = AutoModelForCausalLM.from_pretrained(folder, config=known, **loading)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"The model in {folder} cannot be opened ({reason}). {remedy}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(
            f"The model in {folder} lacks weights of a language model, such as {missing[0]}. {remedy}"
        )
    return model


def sha256_of(folder: Path) -> str:
    """The hash of the configuration and the weights that ``opened`` reads."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def check_context(folder: Path, longest: int | None, context: int) -> None:
    """Raises a ValueError unless the model in a folder, which reads ``longest`` tokens, or any number, reads
    so many."""
    if longest is not None and longest < context:
        raise ValueError(
            f"The model in {folder} reads {longest:,} tokens at most. Use --context {longest} or less."
        )
