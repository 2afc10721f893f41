"""``ttr train``: what a model reads, exact resume, the same steps however they are divided, and a folder that
others open."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    pipeline,
)

import ttr
from ttr.experiments.errors import UserError
from ttr.experiments.train import data, train
from ttr.experiments.train.command import train_command
from ttr.experiments.train.data import HELD_OUT, data_of, packed, row_of
from ttr.experiments.train.model import reads_across
from ttr.experiments.train.settings import TrainSettings
from ttr.laws.tolerances import FLOAT32, error
from ttr.tasks.tokens import byte_tokenizer

streams = pytest.mark.skipif(find_spec("datasets") is None, reason="needs datasets")
SMALL = {"layers": "gated-deltanet", "width": 16, "depth": 1, "head_size": 8, "context": 16, "batch": 4}
STEPS = 6


@pytest.fixture
def text(tmp_path):
    """Two files of words with numbers, some of them beyond ASCII."""
    words = " ".join(f"wörd{i}" for i in range(700))
    for name, part in (("a.txt", words[:3000]), ("b.txt", words[3000:])):
        (tmp_path / name).write_text(part)
    return tmp_path / "a.txt", tmp_path / "b.txt"


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Hold few rows out, and measure them at the end alone."""
    monkeypatch.setattr(data, "HELD_OUT_ROWS", 8)
    monkeypatch.setattr(train, "PARTS", 1)


@pytest.fixture
def settings(text, tmp_path):
    """Settings of a small run on the text."""

    def of(**others):
        return TrainSettings(**{"files": text, "out": tmp_path / "out", "steps": STEPS} | SMALL | others)

    return of


def run(settings):
    return train.train(settings, Console(quiet=True))


def weights(settings):
    return load_file(settings.out / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Steps(TrainerCallback):
    """Notes the steps that are trained, and ends the process after one, as far as Trainer can tell."""

    def __init__(self, last=None):
        self.last, self.trained = last, []

    def on_step_end(self, args, state, control, **others):
        self.trained.append(state.global_step)
        if state.global_step == self.last:
            raise InterruptedError


def watched(settings, callback):
    """A run with another callback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_trackers", lambda names: [callback])
        return run(settings)


def killed(settings, step):
    """A run that is killed after a step, before it is saved."""
    with pytest.raises(InterruptedError):
        watched(settings, Steps(step))


# ---------------------------------------------------------------------- what it reads
def test_a_row_begins_its_documents_anew():
    row = row_of(torch.tensor([7, 8, 9, 5, 6]), torch.tensor([False, False, False, True, False]))
    assert row["input_ids"].tolist() == [7, 8, 9, 5, 6]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1]
    assert row["labels"].tolist() == [-100, 8, 9, -100, 6]


def test_documents_are_packed_in_their_order():
    documents = [torch.tensor(ids, dtype=torch.int32) for ids in ([1, 2], [3, 4, 5, 6, 7], [8, 9])]
    rows = list(packed(documents, 4))
    assert [row["input_ids"].tolist() for row in rows] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [row["position_ids"].tolist() for row in rows] == [[0, 1, 0, 1], [0, 1, 2, 0]]


def test_a_text_is_read_from_its_files(settings, text):
    found, content = data_of(settings(steps=200)), b"".join(path.read_bytes() for path in text)
    bound, trained = len(text[0].read_bytes()), [found.training[i] for i in range(800)]
    assert len(found.training) == 800 and found.bytes_per_token == 1.0
    read = {"training": set(), "held out": set()}
    for part, rows in (("training", trained), ("held out", found.held_out)):
        for row in rows:
            at = content.index(bytes(row["input_ids"].tolist()))
            first = (row["position_ids"] == 0).nonzero()[:, 0].tolist()
            assert first == [0] + [bound - at] * (at < bound < at + 16)
            read[part] |= {*range(at, at + 16)}
    assert not read["training"] & read["held out"]
    assert {bound - 1, bound} <= read["training"]


def test_one_reading_of_the_text_by_default(settings, text):
    size = sum(path.stat().st_size for path in text)
    assert abs(data_of(settings(steps=None)).steps - 0.9 * size / 64) <= 1


def test_held_out_text_without_a_prediction_is_refused(settings):
    begins = torch.ones(16, dtype=torch.bool)
    with pytest.raises(UserError, match="No token of the held-out text is predicted"):
        dataclasses.replace(data_of(settings()), held_out=[row_of(torch.arange(16), begins)])


# ---------------------------------------------------------------------- training
def test_a_resumed_run_ends_with_the_same_bits(settings, tmp_path):
    whole, broken = settings(save_every=2), settings(out=tmp_path / "broken", save_every=2)
    run(whole)
    killed(broken, 5)
    partial = broken.out / "checkpoints" / "checkpoint-5"  # was not written to its end
    partial.mkdir()
    (partial / "config.json").write_text("{")
    rest = Steps()
    metrics = watched(broken, rest)
    assert rest.trained == [5, 6]
    assert same(weights(whole), weights(broken))
    assert metrics == json.loads((whole.out / "metrics.json").read_text())
    assert [step for step, _ in metrics["curves"]["training"]] == [*range(1, STEPS + 1)]
    fresh = torch.load(whole.out / "checkpoints/checkpoint-6/optimizer.pt", weights_only=True)
    assert fresh["state"][0]["step"] == STEPS


def test_a_finished_run_is_not_trained_again(settings, monkeypatch):
    metrics = run(settings())
    path = settings().out / "metrics.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="metrics.json is damaged. Delete it"):
        run(settings())
    path.unlink()
    assert run(settings()) == metrics and path.read_bytes() == whole
    monkeypatch.setattr(train, "_trained", None)
    assert run(settings(track=("tensorboard",), save_every=3)) == metrics


@pytest.mark.parametrize("others", [{"lr": 1e-3}, {"seed": 1}, {"accumulate": 2}, {"steps": 7}])
def test_other_arguments_are_refused_in_the_folder(settings, others):
    killed(settings(save_every=1), 2)
    with pytest.raises(UserError, match=f"other arguments \\({next(iter(others))} changed\\)"):
        run(settings(**others))


def test_arguments_are_mended_where_nothing_is_trained(settings):
    with pytest.raises(UserError, match="Use --depth 3"):
        run(settings(layers="gla:3"))
    killed(settings(), 1)
    mended = settings(lr=1e-3)
    assert run(mended)["steps"] == STEPS
    assert json.loads((mended.out / "train.json").read_text())["settings"] == mended.to_dict()


def test_another_text_is_refused_in_the_folder(settings, text):
    killed(settings(save_every=1), 2)
    text[0].write_text(text[0].read_text()[::-1])
    with pytest.raises(UserError, match="the text's sha256 changed"):
        run(settings())


def test_a_run_goes_on_from_the_weights_it_began_with(settings, tmp_path):
    llama(vocab_size=256).save_pretrained(tmp_path / "start")
    begun = settings(start=tmp_path / "start", save_every=1)
    killed(begun, 2)
    before = (tmp_path / "start" / "model.safetensors").read_bytes()
    other = llama(vocab_size=256)
    torch.nn.init.zeros_(other.lm_head.weight)
    other.save_pretrained(tmp_path / "start")
    with pytest.raises(UserError, match="the start's weights changed"):
        run(begun)
    (tmp_path / "start" / "model.safetensors").write_bytes(before)
    assert run(begun)["steps"] == STEPS


@pytest.mark.parametrize("of_transformers", [False, True])
def test_the_held_out_loss_is_the_mean_over_tokens(settings, monkeypatch, tmp_path, of_transformers):
    """Batches predict different numbers of tokens, and one of them predicts none, as one of training does."""
    llama(vocab_size=256).save_pretrained(tmp_path / "start")
    small = settings(start=tmp_path / "start" if of_transformers else None, steps=1, batch=2, lr=1e-9)
    found, ids = data_of(small), torch.arange(16)
    alone, few, whole = torch.ones(16, dtype=torch.bool), (ids != 3) & (ids != 7), ids == 0
    rows = [row_of(ids + number, begins) for number, begins in enumerate((alone, alone, few, few, whole))]
    made = dataclasses.replace(found, training=rows[:2], held_out=rows)
    monkeypatch.setattr(train, "data_of", lambda settings: made)
    metrics = run(small)
    model = AutoModelForCausalLM.from_pretrained(small.out).eval()
    losses = [
        torch.nn.functional.cross_entropy(
            model(row["input_ids"][None], position_ids=row["position_ids"][None]).logits[0, :-1],
            row["labels"][1:],
            reduction="sum",
        )
        for row in rows
    ]
    assert error(torch.tensor(metrics["held_out"]["nats_per_token"]), sum(losses) / (2 + 2 + 15)) < FLOAT32


def test_a_folder_of_something_else_is_not_overwritten(settings, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds config.json, but no train.json"):
        run(settings())
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_passes_of_a_step_add_up(settings, tmp_path):
    run(settings())
    run(settings(out=tmp_path / "passes", accumulate=4))
    assert close(weights(settings()), weights(settings(out=tmp_path / "passes")))


def close(first, second):
    assert first.keys() == second.keys()
    return all(error(first[name], second[name]) <= FLOAT32 for name in first)


@pytest.mark.full
def test_computed_again_in_the_backward_pass(settings, tmp_path):
    again = settings(out=tmp_path / "again", gradient_checkpointing=True)
    run(settings())
    run(again)
    assert same(weights(settings()), weights(again))


@pytest.mark.full
def test_bfloat16_keeps_weights_in_float32(settings):
    metrics = run(settings(bf16=True))
    assert {tensor.dtype for tensor in weights(settings()).values()} == {torch.float32}
    training = metrics["curves"]["training"]
    assert training[-1][1] < training[0][1] < 9


def test_a_run_that_diverges_ends_before_it_is_saved(settings, monkeypatch):
    monkeypatch.setattr(train, "POINTS", 1)  # checkpoints are more frequent than points of the curve
    with pytest.raises(UserError, match="not finite at step"):
        run(settings(lr=1e30, save_every=1))
    for path in settings().out.glob("checkpoints/*/complete"):
        tensors = load_file(path.with_name("model.safetensors"))
        assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_decay_is_for_matrices(settings):
    trained = {}

    class Seen(TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, **others):
            names = {id(p): name for name, p in model.named_parameters()}
            for group in optimizer.param_groups:
                trained.update({names[id(p)]: (p.ndim, group["weight_decay"]) for p in group["params"]})

    watched(settings(steps=1), Seen())
    assert {decay for ndim, decay in trained.values() if ndim > 1} == {0.1}
    assert {decay for ndim, decay in trained.values() if ndim == 1} == {0.0}
    assert len(trained) == len(weights(settings()))


# ---------------------------------------------------------------------- what it leaves
def test_the_folder_opens_by_its_path(settings):
    metrics = run(settings(steps=20, evaluate_every=10))
    assert [step for step, _ in metrics["curves"]["held_out"]] == [10, 20]
    assert metrics["curves"]["held_out"][1][1] < metrics["curves"]["held_out"][0][1] < 8.5
    out = settings().out
    written = pipeline("text-generation", str(out))("wörd1", max_new_tokens=4, do_sample=False)
    assert written[0]["generated_text"].startswith("wörd1")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.use_cache and model.config.layers == ["gated-deltanet"]
    held_out = data_of(settings()).held_out
    with torch.no_grad():
        losses = [model(**{k: v[None] for k, v in row.items()}).loss for row in held_out]
    assert error(torch.stack(losses).mean(), torch.tensor(metrics["held_out"]["nats_per_token"])) <= FLOAT32
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.bin"))


def test_bytes_are_tokens_of_transformers(settings):
    run(settings(steps=1))
    tokenizer = AutoTokenizer.from_pretrained(settings().out)
    content = bytes(range(1, 256)).decode("latin-1") + "漢\u2028😀"
    assert tokenizer(content)["input_ids"] == list(content.encode())
    assert tokenizer.decode(list(content.encode())) == content


@pytest.mark.full
def test_a_model_is_continued(settings, tmp_path):
    run(settings())
    more = TrainSettings(
        files=settings().files, start=settings().out, out=tmp_path / "more", steps=1, context=16, lr=1e-9
    )
    run(more)
    assert close(weights(settings()), weights(more))
    assert AutoTokenizer.from_pretrained(more.out).vocab_size == 256


def llama(**others):
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": 260} | sizes | others))


@pytest.mark.parametrize("converted", [pytest.param(False, marks=pytest.mark.full), True])
def test_models_of_transformers_are_continued(settings, tmp_path, converted):
    model = ttr.convert(llama(), to="kda", layers=[1]) if converted else llama()
    model.save_pretrained(tmp_path / "start")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(tmp_path / "start")
    start = TrainSettings(
        files=settings().files, start=tmp_path / "start", out=tmp_path / "out", steps=2, context=16
    )
    found = data_of(start)
    assert found.encoding.end == 256 and found.training.ids.eq(256).sum() == 2
    run(start)
    assert AutoTokenizer.from_pretrained(start.out).eos_token == "<end>"
    before, after = load_file(tmp_path / "start" / "model.safetensors"), weights(start)
    assert before.keys() == after.keys() and not same(before, after)


@pytest.mark.full
def test_a_tokenizer_file_is_used_and_saved(settings, text, tmp_path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([path.read_text() for path in text], trainer)
    tokenizer.save(str(tmp_path / "words.json"))
    metrics = run(settings(tokenizer=tmp_path / "words.json", context=8))
    assert metrics["bytes_per_token"] > 1.5
    held_out = metrics["held_out"]
    bits = torch.tensor(held_out["bits_per_byte"] * metrics["bytes_per_token"])
    assert error(torch.tensor(held_out["nats_per_token"]), bits * torch.tensor(2.0).log()) <= FLOAT32
    assert AutoTokenizer.from_pretrained(settings().out).vocab_size == 300


@pytest.mark.parametrize(
    "options, words",
    [
        ({"layers": "gated-deltanett"}, "Did you mean gated-deltanet"),
        ({"layers": "gla:3"}, "Use --depth 3"),
        ({"batch": 5, "accumulate": 2}, "Use a multiple of 2"),
        ({"width": 12}, "multiple of --head-size 8"),
        ({"context": 1}, "--context must be at least 2"),
        ({"context": 10_000}, "Use --context"),
        ({"files": (Path("missing.txt"),)}, "There is no file missing.txt"),
        ({"start": Path("missing")}, "There is no config.json"),
        ({"tokenizer": Path("missing.json")}, "cannot be read"),
        ({"track": ("abacus",)}, "--track abacus: abacus is not supported"),
        ({"stream": True, "steps": None}, "--stream needs files, and --steps"),
        ({"lr": -1.0}, "--lr must be more than 0"),
    ],
)
def test_errors_say_what_to_do(settings, options, words):
    with pytest.raises(UserError, match=words):
        run(settings(**options))


def test_a_model_of_another_size_is_refused(settings, tmp_path):
    start = TrainSettings(
        files=settings().files, start=tmp_path / "start", out=tmp_path / "out", steps=1, context=16
    )
    llama(vocab_size=256, max_position_embeddings=15).save_pretrained(start.start)
    with pytest.raises(UserError, match="reads 15 tokens at most. Use --context 15"):
        run(start)
    llama(vocab_size=260).save_pretrained(start.start)
    with pytest.raises(UserError, match="has 260 tokens, and there is no tokenizer.json"):
        run(start)
    byte_tokenizer().save(str(start.start / "tokenizer.json"))
    llama(vocab_size=255).save_pretrained(start.start)
    with pytest.raises(UserError, match="has 255 tokens, and the text 256"):
        run(dataclasses.replace(start, tokenizer=start.start / "tokenizer.json"))


def test_a_folder_of_pickles_or_of_half_a_model_is_refused(settings, tmp_path):
    start = dataclasses.replace(settings(), start=tmp_path / "start")
    llama(vocab_size=256).save_pretrained(start.start)
    weights = start.start / "model.safetensors"
    tensors = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be opened"):
        run(start)
    weights.unlink()
    torch.save(tensors, start.start / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be opened .* as safetensors"):
        run(start)
    save_file({name: x for name, x in tensors.items() if name != "lm_head.weight"}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="lacks weights of a language model, such as lm_head.weight"):
        run(start)


@pytest.mark.parametrize(
    "made, across",
    [
        (llama, False),
        (lambda: ttr.convert(llama(), to="kda", layers=[1]), False),
        (lambda: MambaForCausalLM(MambaConfig(vocab_size=260, hidden_size=16, num_hidden_layers=1)), True),
    ],
)
def test_who_reads_documents_across_their_boundary_is_said(settings, tmp_path, capsys, made, across):
    model = made()
    assert reads_across(model.train(), 16) == across and model.training
    model.save_pretrained(tmp_path / "start")
    byte_tokenizer().save(str(tmp_path / "start" / "tokenizer.json"))
    start = dataclasses.replace(settings(), start=tmp_path / "start", steps=1)
    train.train(start, Console())
    assert ("across their boundaries" in " ".join(capsys.readouterr().out.split())) == across


def test_several_gpus_need_several_processes(settings, monkeypatch):
    monkeypatch.setattr(train.TrainingArguments, "n_gpu", 2)
    with pytest.raises(UserError, match="2 GPUs. Use them by accelerate launch -m ttr train"):
        run(settings())


def test_an_existing_model_has_its_layers():
    with pytest.raises(UserError, match="--layers, --depth describe a new model"):
        train_command(start=Path("start"), layers="gla", depth=2)


# ---------------------------------------------------------------------- streams
def lines(path, count):
    """A file of JSON lines with documents of several lengths."""
    texts = [f"document {i} " * (1 + i % 5) for i in range(count)]
    path.write_text("".join(json.dumps({"text": text, "number": i}) + "\n" for i, text in enumerate(texts)))
    return texts


@streams
def test_a_stream_holds_documents_out(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "HELD_OUT_ROWS", 128)
    texts = lines(tmp_path / "many.jsonl", 60)
    found = data_of(settings(files=(tmp_path / "many.jsonl",), stream=True))
    unseen = "".join(texts[HELD_OUT - 1 :: HELD_OUT]).encode()
    held_out = b"".join(bytes(row["input_ids"].tolist()) for row in found.held_out)
    assert held_out == unseen[: len(held_out)] and len(unseen) - len(held_out) < 16
    seen = b""
    for row, _ in zip(found.training, range(400)):
        seen += bytes(row["input_ids"].tolist())
    for number in range(len(texts) - 1):
        assert (f"document {number} ".encode() in seen) == (number % HELD_OUT != HELD_OUT - 1), number


@streams
def test_a_stream_is_resumed_with_the_same_bits(settings, tmp_path):
    lines(tmp_path / "few.jsonl", 25)  # which 24 windows of 16 bytes read more than once
    streamed = {"files": (tmp_path / "few.jsonl",), "stream": True, "steps": 40, "save_every": 30}
    whole, broken = settings(**streamed), settings(out=tmp_path / "broken", **streamed)
    run(whole)
    killed(broken, 37)
    rest = Steps()
    watched(broken, rest)
    assert rest.trained == [*range(31, 41)]
    assert same(weights(whole), weights(broken))


@streams
@pytest.mark.parametrize("kind", ["parquet", "text", "json.gz"])
def test_files_of_other_kinds_stream(settings, tmp_path, kind):
    import datasets

    rows = datasets.Dataset.from_dict({"text": [f"document {i} " * 9 for i in range(40)]})
    files = [tmp_path / f"data.{kind}"]
    if kind == "text":
        files = [tmp_path / f"{i}.txt" for i in range(40)]
        for path, row in zip(files, rows):
            path.write_text(row["text"])
    elif kind == "parquet":
        rows.to_parquet(files[0])
    else:
        rows.to_json(files[0], compression="gzip")
    found = data_of(settings(files=tuple(files), stream=True))
    held_out = b"".join(bytes(row["input_ids"].tolist()) for row in found.held_out)
    assert held_out.startswith(b"document 19 document 19 ")
    assert b"document " in bytes(next(iter(found.training))["input_ids"].tolist())


@streams
@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"words": "x"}] * 40, "no column 'text', but words"),
        ([{"text": 3}] * 40, "holds no text, but 3"),
        ([{"text": "short"}] * 40, "shorter than the context of 16"),
    ],
)
def test_streams_without_text_are_refused(settings, tmp_path, rows, words):
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=words):
        run(settings(files=(tmp_path / "bad.jsonl",), stream=True))


# ---------------------------------------------------------------------- several processes
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(ttr.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def command(settings):
    """The command line of these settings."""
    return settings.command().split()[1:]


def launch(settings, *options):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "ttr"]
    result = subprocess.run(
        [*launcher, *command(settings)], capture_output=True, text=True, timeout=600, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.full
@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=streams)])
def test_two_processes_are_one(settings, tmp_path, stream):
    lines(tmp_path / "few.jsonl", 60)
    source = {"files": (tmp_path / "few.jsonl",), "stream": True} if stream else {}
    alone, together = settings(accumulate=2, **source), settings(out=tmp_path / "two", **source)
    run(alone)
    printed = launch(together, "--cpu", "--num_processes", "2", "--main_process_port", "0")
    assert close(weights(alone), weights(together))
    assert printed.count("Trained 6 steps") == 1


SHARDED = """
import torch
from accelerate import state
from accelerate.utils import DistributedType
from ttr.__main__ import main
state.PartialState._prepare_backend = lambda self, *arguments, **others: ("gloo", DistributedType.MULTI_GPU)
state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
torch.distributed.init_process_group("gloo")
main()
"""
"""accelerate shards the parameters of GPUs alone: here processes of a CPU pass for some."""


@pytest.mark.full
def test_sharded_parameters(settings, tmp_path):
    """FSDP2 as accelerate's configuration asks for it."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    alone, together = settings(accumulate=2, depth=2), settings(out=tmp_path / "two", depth=2)
    run(alone)
    variables = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    result = subprocess.run(
        [*launcher, str(tmp_path / "sharded.py"), *command(together)],
        capture_output=True,
        text=True,
        timeout=600,
        env=ENVIRONMENT | variables,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(together.out.glob("checkpoints/checkpoint-6/pytorch_model_fsdp_0/*.distcp"))
    assert close(weights(alone), weights(together))


@pytest.mark.full
def test_killed_at_any_time(settings, tmp_path):
    whole, broken = (
        settings(steps=60, save_every=5),
        settings(steps=60, save_every=5, out=tmp_path / "broken"),
    )
    run(whole)
    kills = 0
    for later in (0, 3, 8):
        process = subprocess.Popen(
            [sys.executable, "-m", "ttr", *command(broken)], env=ENVIRONMENT, stdout=subprocess.DEVNULL
        )
        while len(list(broken.out.glob("checkpoints/*/complete"))) < 1 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.02 * later)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    run(broken)
    assert same(weights(whole), weights(broken))
