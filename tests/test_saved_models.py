"""Models saved by an earlier revision load, and give the same logits as there.

The folders in ``tests/saved/<revision>`` hold small decoders with every causal layer of the catalogue and
with memories given as descriptions, beside input ids and the float64 logits of that revision.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ttr
from tests.decoders import ENTRIES
from ttr.catalogue.networks import BEFORE_VERSIONS
from ttr.component import Component
from ttr.laws.tolerances import FLOAT32, FLOAT64, error
from ttr.layer.architecture import Architecture
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.models.conversion import FLAT, SETTINGS, described, renamed_keys
from ttr.nn import Mixer

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


@pytest.mark.parametrize("old", SETTINGS)
def test_an_old_setting_is_todays(old, tmp_path):
    settings = json.loads((FOLDERS[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {old: "recurrent"}))
    config = TTRConfig.from_pretrained(tmp_path)
    assert getattr(config, SETTINGS[old]) == "recurrent" and old not in config.to_dict()


@pytest.mark.parametrize("name", BEFORE_VERSIONS)
def test_a_name_means_what_it_meant_when_it_was_saved(name, tmp_path):
    """A configuration says which version of ttr saved it; one that does not is older."""
    today = TTRConfig(layers=name, num_hidden_layers=1)
    today.save_pretrained(tmp_path)
    loaded = TTRConfig.from_pretrained(tmp_path)
    assert loaded.memories() == today.memories() == [ttr.catalogue[name]]
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    assert settings.pop("ttr_version") == ttr.__version__
    file.write_text(json.dumps(settings))
    older = TTRConfig.from_pretrained(tmp_path)
    assert older.memories() != today.memories()
    older.save_pretrained(tmp_path)
    assert TTRConfig.from_pretrained(tmp_path).memories() == older.memories()


@every_folder
def test_saved_again_it_has_todays_names(folder, tmp_path):
    model = TTRForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


@pytest.mark.parametrize("file", SAVED.glob("*/starts.json"), ids=lambda path: path.parent.name)
@pytest.mark.parametrize("name", ttr.catalogue)
def test_the_first_weights_are_drawn_as_before(name, file):
    """From one seed; compared by the sums of the entries of every tensor, weighted from 1 to 2."""
    entry, *_ = TTRConfig.from_dict({"layers": name, "num_hidden_layers": 1}).memories()
    torch.manual_seed(1)
    mixer = Mixer(12, entry, heads=3, layer=1, layers=3)
    stored = {}
    for key, value in json.loads(file.read_text())[name].items():
        for pattern, today in renamed_keys([entry]).items():
            key = re.sub(pattern, today, f"layers.0.mixer.{key}").removeprefix("layers.0.mixer.")
        stored[key.replace(FLAT, "weight")] = value
    assert mixer.state_dict().keys() == stored.keys()
    for key, tensor in mixer.state_dict().items():
        weights = torch.linspace(1, 2, tensor.numel(), dtype=torch.float64)
        total = (tensor.double().flatten() * weights).sum()
        assert error(total, torch.tensor(stored[key])) <= FLOAT32, key


@pytest.mark.parametrize("file", SAVED.glob("*/descriptions.json"), ids=lambda path: path.parent.name)
def test_old_descriptions_are_those_of_today(file):
    old = json.loads(file.read_text())
    for name, description in old["entries"].items():
        entry = Architecture.from_dict(described(description))
        today, *_ = TTRConfig.from_dict({"layers": name, "num_hidden_layers": 1}).memories()
        assert (entry.qkv, entry.gates, entry.output) == (today.qkv, today.gates, today.output), name
    for part in old["parts"]:
        parts = described({"keys": [], "controls": [], "output": [], part["kind"]: [part]})
        (found,) = parts["qkv"] + parts["gates"] + parts["output"]
        assert Component.from_dict(found).to_dict().items() >= found.items(), part
    assert described(ttr.catalogue["ttt-linear"].to_dict()) == ttr.catalogue["ttt-linear"].to_dict()
