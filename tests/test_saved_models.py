"""Models saved by an earlier revision load, and give the logits that they gave there.

The folders in ``tests/saved/<revision>`` hold small decoders with every causal layer of the catalogue and
with memories given as descriptions, beside input ids and the float64 logits of that revision.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ttr
from tests.decoders import ENTRIES
from ttr.laws.tolerances import FLOAT64, error
from ttr.layer.architecture import Architecture
from ttr.models import TTRForCausalLM
from ttr.models.conversion import described

SAVED = Path(__file__).parent / "saved"
FOLDERS = sorted(path.parent for path in SAVED.glob("*/*/config.json"))
every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")


def test_every_layer_was_saved():
    saved = [json.loads((folder / "config.json").read_text())["layers"] for folder in FOLDERS]
    assert set(ENTRIES) <= {layer for layers in saved for layer in layers if isinstance(layer, str)}


@every_folder
@pytest.mark.parametrize("cls", [AutoModelForCausalLM, TTRForCausalLM])
def test_a_saved_model_gives_its_logits(folder, cls):
    model, report = cls.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not any(report.values())
    stored = load_file(folder / "logits.safetensors")
    with torch.no_grad():
        assert error(model(stored["input_ids"]).logits, stored["logits"]) <= FLOAT64


def test_old_descriptions_are_those_of_today():
    for file in SAVED.glob("*/descriptions.json"):
        for name, description in json.loads(file.read_text())["entries"].items():
            entry = Architecture.from_dict(described(description))
            today = ttr.catalogue[name]
            assert (entry.qkv, entry.gates, entry.output) == (today.qkv, today.gates, today.output), name
