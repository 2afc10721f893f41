"""``ttr compare --from``: memories in place of the attention of a pretrained model, compared on a text."""

import dataclasses
import io
import json
import shutil

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import ttr
import ttr.integrations.transformers as on_cpu
from ttr.cli import app
from ttr.experiments import compare as comparing
from ttr.experiments import language_model, pretrained, publish, speed, training
from ttr.experiments.compare import compare
from ttr.experiments.errors import UserError
from ttr.experiments.evaluation import bits_and_hits, memory_bytes
from ttr.experiments.memories import Memory
from ttr.experiments.plan import Plan
from ttr.experiments.pretrained import REFERENCE, Pretrained
from ttr.experiments.replacement import replacement
from ttr.experiments.report import html
from ttr.experiments.settings import CompareSettings, Recipe
from ttr.experiments.starting_point import NewDecoders
from ttr.experiments.storage import load_tensors
from ttr.integrations.transformers.conversion import MemoryAttention

TINY = {
    "layers": ("gated-deltanet", "linear-attention+softmax-attention-qknorm"),
    "steps": 6,
    "context": 32,
    "batch": 2,
    "evaluation_windows": 16,
    "tuning_windows": 16,
    "rounds": 1,
    "checkpoint_every": 2,
    "resamples": 100,
    "seeds": 1,
    "lr": 1e-3,
}
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
SIZES |= {"intermediate_size": 24, "num_hidden_layers": 3, "attention_dropout": 0.2, "vocab_size": 280}
SPEEDS = ("training", "decoding", "prefill", "distillation")


def text_of(folder):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]
    drawn = torch.randint(0, 10_000, (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    path = folder / "text.txt"
    path.write_text(" ".join(f"{words[n % 7]}{n % 11}" for n in drawn))
    return path


def save_tokenizer(text, folder, vocabulary=280):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text.read_text()], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def decoder(model=LlamaForCausalLM, config=LlamaConfig, seed=0, **changes):
    torch.manual_seed(seed)
    return model(config(**SIZES | changes))


@pytest.fixture(scope="module", autouse=True)
def brief():
    """Short samples, short curves and no pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_model, "WRITTEN", 8)
        patch.setattr(language_model, "CURVE_POINTS", 1)
        patch.setattr(publish, "draw", lambda results: b"")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text, and a tiny pretrained model with tied embeddings, saved in bfloat16."""
    folder = tmp_path_factory.mktemp("pretrained")
    text = text_of(folder)
    decoder(tie_word_embeddings=True).bfloat16().save_pretrained(folder / "llama")
    save_tokenizer(text, folder / "llama")
    return folder


def settings_in(place, out, **changes):
    given = {"files": (place / "text.txt",), "pretrained": place / "llama", "out": out} | TINY
    return CompareSettings(**given | changes)


def run(settings):
    return compare(settings, Console(file=io.StringIO(), width=100))


@pytest.fixture(scope="module")
def whole(place):
    """The settings and results of an uninterrupted comparison."""
    settings = settings_in(place, place / "whole")
    return settings, run(settings)


def cells(settings, label):
    found = (settings.out / "cells").glob(f"{label}*.safetensors")
    return {path.name: path for path in found if "checkpoint" not in path.name}


def start_of(place, which=None):
    return Pretrained.of_folder(place / "llama", which)


def memory_of(place, name, which=None):
    settings = settings_in(place, place, layers=(name,), convert=which)
    return start_of(place, which).memories(settings)[0]


def test_what_it_costs_and_saves_is_told_first(place, whole):
    settings, results = whole
    rows = {row["name"]: row for row in results["memories"]}
    unchanged, best = results["references"][-1], rows[results["best"]["all"]]
    assert set(rows) == set(settings.layers) and unchanged["name"] == REFERENCE
    assert results["start"]["converted"] == [0, 2] and results["state_after"] == 384
    assert unchanged["state_bytes"] == 3 * 2 * 8 * 384 * 4  # layers, keys and values, channels, tokens, bytes
    assert 384 * 2 * 8 * 4 < rows["gated-deltanet"]["state_bytes"] < unchanged["state_bytes"] / 2
    first = results["conclusion"][0]
    assert first.startswith(f"Replacing the attention of layers 0 and 2 (of 3) by {best['name']} ")
    assert "behind 384 tokens the model decodes" in first and "instead of 74 kB" in first
    assert any("No memory predicts better than counting yet" in each for each in results["conclusion"])
    for row in (*rows.values(), unchanged):
        kinds = SPEEDS[: 3 + (row is not unchanged)]
        assert all(row[f"{kind}_tokens_per_second"] > 0 for kind in kinds)
    page = html(results, b"")
    assert "should replace attention?" in page and f"unchanged {unchanged['parameters']:,}" in page
    assert page.count("72 KiB") == 1 and "behind 384 tokens" in page and "prefill" in page


def test_the_models_open_and_spend_the_bits_that_are_reported(place, whole):
    settings, _ = whole
    for name in settings.layers:
        folder = settings.out / "models" / name
        model = on_cpu.from_pretrained(folder, dtype=torch.float32)
        converted = [isinstance(block.self_attn, MemoryAttention) for block in model.model.layers]
        assert converted == [True, False, True] and model.lm_head.weight is model.model.embed_tokens.weight
        (path,) = cells(settings, f"{name}.*steps6").values()
        tensors, facts = load_tensors(path)
        assert len(facts["facts"]["distillation"]) == 3 and len(facts["facts"]["loss"]) == 6
        comparison = comparing.Comparison(settings, None)
        bits, _ = bits_and_hits(model, comparison.windows.validation.ids, settings.batch)
        assert torch.equal(bits, tensors["bits"])
        assert (
            AutoTokenizer.from_pretrained(folder).decode(comparison.tokens.ids[:9])
            in settings.files[0].read_text()
        )


def test_stopped_at_any_step_it_ends_at_the_same_numbers(place, whole, monkeypatch):
    """Behind a whole distillation, within one, and within a training, the last two after a checkpoint."""
    settings = settings_in(place, place / "stopped")
    settings.out.mkdir()
    shutil.copy(whole[0].out / "speeds.safetensors", settings.out)
    left = [9, 14, 7]

    def interrupting(loss):
        def interrupted(*arguments):
            left[0] -= 1
            if left[0] == 0:
                del left[0]
                raise KeyboardInterrupt
            return loss(*arguments)

        return interrupted

    with monkeypatch.context() as patch:
        for module, name in ((training, "next_token_loss"), (pretrained, "distillation_loss")):
            patch.setattr(module, name, interrupting(getattr(module, name)))
        while left:
            with pytest.raises(UserError, match="continues from here"):
                run(settings)
    run(settings)
    first, second = cells(whole[0], ""), cells(settings, "")
    assert first.keys() == second.keys() and len(first) == 3 * 3 + 3
    assert all(path.read_bytes() == second[name].read_bytes() for name, path in first.items())
    assert not [path for path in (settings.out / "cells").iterdir() if "checkpoint" in path.name]


@pytest.mark.full
def test_processes_give_the_same_bits(place, whole):
    settings = settings_in(place, place / "processes", jobs=2)
    run(settings)
    first, second = cells(whole[0], ""), cells(settings, "")
    assert first.keys() == second.keys()
    for name, path in first.items():
        (one, _), (other, _) = load_tensors(path), load_tensors(second[name])
        assert all(torch.equal(one[key], other[key]) for key in one if key != "sample")


def test_distillation_teaches_the_memories_and_nothing_else(place, tmp_path, monkeypatch):
    memory, start = memory_of(place, "gated-deltanet"), start_of(place)
    settings = Recipe(context=32, batch=4)
    comparison = comparing.Comparison(settings_in(place, tmp_path), None)
    text = language_model.Windows(comparison.tokens, settings)
    model = start.build(memory, 0)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    arguments = {"memory": dataclasses.asdict(memory), "seed": 0, "steps": 60}
    path, reports, read, loss = tmp_path / "a.checkpoint.safetensors", [], [], pretrained.distillation_loss

    def reading(*models_and_ids):
        read.append(models_and_ids[-1])
        return loss(*models_and_ids)

    monkeypatch.setattr(pretrained, "distillation_loss", reading)
    losses = language_model._distilled(model, start, text, arguments, path, lambda *r: reports.append(r))
    windows = text.tokens.ids[text.training_starts(0, 60)[:30, :, None] + torch.arange(32)].long()
    assert torch.equal(torch.stack(read), windows)  # the first that the training will read
    assert len(losses) == 30 and losses[0] <= 1 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert sum(steps for _, steps, *_ in reports) == 30 and not path.exists()
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".mixer." in name} and changed
    assert {name.split(".")[2] for name in changed} == {"0", "2"}


def test_without_memories_it_is_the_users_model_in_float32(place):
    start = start_of(place)
    model, again = (start.build(Memory(REFERENCE, [], ""), seed).train() for seed in (0, 1))
    original = AutoModelForCausalLM.from_pretrained(place / "llama", dtype=torch.float32).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():  # without dropout, in training as well
        wanted = original(ids).logits
        assert torch.equal(model(ids).logits, wanted) and torch.equal(again(ids).logits, wanted)
    assert (
        model.dtype == torch.float32
        and AutoModelForCausalLM.from_pretrained(place / "llama", dtype="auto").dtype == torch.bfloat16
    )
    memory = memory_of(place, "kda")
    one, same, other = (start.build(memory, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ and all(".mixer." in name for name in differ)


@pytest.mark.parametrize("which, layers", [(None, [0, 2]), ("all", [0, 1, 2]), ("2,1", [2, 1])])
def test_which_layers_are_converted(place, which, layers):
    start = start_of(place, which)
    assert list(start.layers) == layers
    model = start.build(memory_of(place, "gla", which), 0)
    found = [i for i, block in enumerate(model.model.layers) if isinstance(block.self_attn, MemoryAttention)]
    assert found == sorted(layers)


def test_a_state_is_that_of_memories_and_of_attention(place):
    start, ids = start_of(place), torch.arange(20)[None]
    unchanged = memory_bytes(start.build(Memory(REFERENCE, [], ""), 0), ids)
    assert unchanged == 3 * 2 * 8 * 20 * 4
    model = start.build(memory_of(place, "gated-deltanet"), 0)
    state = model(ids, use_cache=True).past_key_values.layers[0].state
    assert memory_bytes(model, ids) == unchanged // 3 + 2 * state.nbytes


def test_a_hybrid_takes_its_turns(place):
    memory = memory_of(place, "gla+mamba2")
    model = start_of(place).build(memory, 0)
    problems = [model.model.layers[i].self_attn.mixer.problem for i in (0, 2)]
    assert problems == [ttr.catalogue[name].problem for name in ("gla", "mamba2")]
    with pytest.raises(UserError, match="3 layers in turn.*not fit into 2. Let --convert name 3 layers"):
        memory_of(place, "gla:2+mamba2")


def test_steps_cost_what_their_distillation_takes(place, monkeypatch):
    start = start_of(place)
    found = start.memories(settings_in(place, place, layers=("gla",)))
    monkeypatch.setattr(
        speed,
        "_timed",
        lambda action, device: (0.0, {"_Training": 4.0, "_Distillation": 1.0}[type(action).__name__]),
    )
    ids = torch.zeros(2, 9, dtype=torch.int64)
    assert speed.seconds_per_step(start, found, settings_in(place, place), ids) == {
        "gla": 4.5,
        REFERENCE: 4.0,
    }


def interval(value, off=0.001):
    return {"value": value, "low": value - off, "high": value + off}


def row(name, cost, state, off=0.001, disturbed=False):
    """A memory that decodes twice and reads three times as fast as the unchanged model."""
    speeds = {"decoding_tokens_per_second": 20.0, "prefill_tokens_per_second": 300.0, "disturbed": disturbed}
    bits = {"all": interval(2 + cost)}
    return {
        "name": name,
        "bits_per_byte": bits,
        "behind_reference": interval(cost, off),
        "state_bytes": state,
    } | speeds


@pytest.mark.parametrize(
    "cost, off, words",
    [
        (
            0.05,
            0.001,
            "by a costs 0.050 [0.049, 0.051] bits per byte (0.069 nats per token) of this text against",
        ),
        (0.01, 0.001, "by a costs nothing that matters in practice on this text: 0.010 [0.009, 0.011]"),
        (0.03, 0.05, "by a is not told apart from the unchanged model, trained alike, on this text: 0.030"),
        (
            -0.05,
            0.001,
            "by a does not cost, but gains on this text: -0.050 [-0.051, -0.049] bits per byte (-0.069",
        ),
    ],
)
def test_sentences_follow_from_intervals(cost, off, words):
    unchanged = row(REFERENCE, 0.0, 1000) | {
        "decoding_tokens_per_second": 10.0,
        "prefill_tokens_per_second": 100.0,
    }
    results = {
        "references": [unchanged],
        "start": {"converted": [1], "layers": 4},
        "state_after": 2048,
        "tokens": {"unit": "tokens", "bytes_per_token": 2.0},
    }
    rows = {each["name"]: each for each in (row("a", cost, 1000, off), row("b", 0.2, 100, disturbed=True))}
    first, second = replacement(results, rows, rows["a"])
    assert words in first and first.startswith("Replacing the attention of layer 1 (of 4) ")
    assert first.endswith(
        "; behind 2,048 tokens the model decodes 2.0 times and reads 3.0 times as fast, with a state of 1 kB "
        "instead of 1 kB."
    )
    assert second.startswith("Of the memories that make the state smaller, b predicts best: it costs 0.200 ")
    assert "as fast, by speeds that other programs disturbed, with" in second
    assert (
        replacement(results, {"a": rows["a"]}, rows["a"])[1]
        == "No memory makes the state of the model smaller."
    )
    assert len(replacement(results, {"b": rows["b"]}, rows["b"])) == 1


# ------------------------------------------------------------------------------------------ what is refused
def refused(place, tmp_path, **changes):
    """The sentence with which a comparison is refused, before anything is written."""
    settings = settings_in(place, tmp_path / "out", **changes)
    with pytest.raises(UserError) as caught:
        run(settings)
    assert not settings.out.exists()
    return str(caught.value)


def copied(place, tmp_path):
    return shutil.copytree(place / "llama", tmp_path / "model")


def test_a_folder_without_a_model_or_tokenizer_is_named(place, tmp_path):
    assert "There is no config.json in" in refused(place, tmp_path, pretrained=tmp_path / "nowhere")
    folder = copied(place, tmp_path)
    (folder / "tokenizer.json").unlink()
    assert f"There is no tokenizer.json in {folder}. Name a folder" in refused(
        place, tmp_path, pretrained=folder
    )


def test_weights_that_are_missing_or_no_safetensors_are_refused(place, tmp_path):
    folder = copied(place, tmp_path)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "cannot be opened" in refused(place, tmp_path, pretrained=folder)
    weights.unlink()
    torch.save(decoder().state_dict(), folder / "pytorch_model.bin")
    assert "cannot be opened" in refused(place, tmp_path, pretrained=folder)
    torch.manual_seed(0)
    LlamaForSequenceClassification(LlamaConfig(**SIZES | {"pad_token_id": 0})).save_pretrained(folder)
    assert "lacks weights of a language model, such as lm_head.weight" in refused(
        place, tmp_path, pretrained=folder
    )


def test_code_of_a_folder_is_not_run(place, tmp_path):
    folder = copied(place, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('run')")
    assert Pretrained.of_folder(folder, "all").facts["model"] == "LlamaForCausalLM"
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine"}))
    assert "cannot be opened" in refused(place, tmp_path, pretrained=folder)


@pytest.mark.parametrize(
    "model, config, sentence",
    [
        (
            MambaForCausalLM,
            MambaConfig(vocab_size=280, hidden_size=16, num_hidden_layers=1),
            "no attention layers",
        ),
        (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=8), "no attention layers"),
    ],
)
def test_models_without_attention_that_fits_are_refused(model, config, sentence, place, tmp_path):
    folder = copied(place, tmp_path)
    model(config).save_pretrained(folder)
    assert sentence in refused(place, tmp_path, pretrained=folder)


def test_a_converted_model_is_no_beginning(place, whole, tmp_path):
    folder = whole[0].out / "models" / "gated-deltanet"
    assert "has memories in place of attention" in refused(place, tmp_path, pretrained=folder)


def test_a_tokenizer_of_another_model_is_refused(place, tmp_path):
    folder = copied(place, tmp_path)
    decoder(vocab_size=270).save_pretrained(folder)
    assert "has 280 tokens, but the model only 270" in refused(place, tmp_path, pretrained=folder)


def test_a_model_that_reads_less_than_the_context_is_refused(place, tmp_path):
    folder = copied(place, tmp_path)
    decoder(max_position_embeddings=31).save_pretrained(folder)
    assert "reads 31 tokens at most. Use --context 31 or less" in refused(place, tmp_path, pretrained=folder)


@pytest.mark.parametrize("which", ["0,9", "0,0", "", "second", "-1"])
def test_layers_that_are_not_there_are_refused(which, place, tmp_path):
    assert "--convert takes " in refused(place, tmp_path, convert=which)


def test_a_memory_that_does_not_fit_is_named(place, tmp_path):
    sentence = refused(place, tmp_path, layers=("gla", "skyformer"))
    assert sentence.startswith("skyformer does not fit into the model. In the memory for layer 0 every token")


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--from", "m", "--tokenizer", "t.json"], "Leave --tokenizer out"),
        (["--from", "m", "--width", "64", "--depth", "2"], "Leave --width and --depth out"),
        (["--convert", "all"], "Name its folder with --from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        app(["compare", *options], standalone_mode=False)


def test_another_model_is_another_comparison(place, whole, tmp_path):
    folder = copied(place, tmp_path)
    settings = settings_in(place, tmp_path / "out", pretrained=folder)
    assert (
        comparing.Comparison(settings, None)
        .plan.about["definitions"][REFERENCE]["origin"]
        .startswith(str(folder))
    )
    decoder(tie_word_embeddings=True, seed=1).bfloat16().save_pretrained(folder)
    with pytest.raises(UserError, match="the definition of pretrained-model changed"):
        run(settings)
    plan = Plan.read(whole[0].out / "plan.json")
    with pytest.raises(UserError, match="pretrained changed"):
        compare(dataclasses.replace(settings, out=tmp_path / "again"), Console(file=io.StringIO()), plan)


def test_qwen_is_converted_and_new_decoders_are_no_pretrained_ones(place, tmp_path):
    folder = copied(place, tmp_path)
    decoder(Qwen3ForCausalLM, Qwen3Config, tie_word_embeddings=False).save_pretrained(folder)
    start = Pretrained.of_folder(folder, "1")
    assert start.facts["model"] == "Qwen3ForCausalLM" and start.facts["converted"] == [1]
    assert start.after(32) == 2048 and NewDecoders(Recipe(), {}, 0).after(32) == 32
