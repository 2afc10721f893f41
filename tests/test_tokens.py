"""Tokens of a tokenizer file: they give the text back, hold its bytes, and all figures are bits per byte."""

import csv
import dataclasses
import hashlib
import io
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from ttr.experiments.cells import compute_cell
from ttr.experiments.compare import Comparison, compare
from ttr.experiments.errors import UserError
from ttr.experiments.evaluation import bits_and_hits, bits_per_byte, per_byte
from ttr.experiments.memories import build, equal_widths, memories, parameters
from ttr.experiments.progress import Bar
from ttr.experiments.references import count
from ttr.experiments.settings import CompareSettings
from ttr.experiments.statistics import Bootstrap
from ttr.experiments.storage import load_tensors
from ttr.laws.tolerances import FLOAT32
from ttr.models import TTRForCausalLM
from ttr.tasks import tokens as module
from ttr.tasks.ngrams import ORDERS, NGrams, with_cache
from ttr.tasks.text import cautions, places, read_text, recall_slice, split
from ttr.tasks.tokens import Bytes, TokenizerFile, Tokens, byte_tokens, encoding

WORDS = ("alpha", "beta", "naïve", "żółw", "日本", "😀", "\n", "  two", "<eos>")


def words(count: int, of=WORDS) -> str:
    drawn = torch.randint(len(of), (count,), generator=torch.Generator().manual_seed(0)).tolist()
    return " ".join(of[n] for n in drawn)


def byte_level(texts=(), vocabulary: int = 300) -> Tokenizer:
    """A byte-level BPE; without texts every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture
def saved(tmp_path):
    """Save a tokenizer; return its path."""

    def save(tokenizer: Tokenizer, name="tokenizer.json"):
        tokenizer.save(str(tmp_path / name))
        return tmp_path / name

    return save


@pytest.fixture
def written(tmp_path):
    """Write texts to files and read them as one."""

    def write(*contents: str | bytes):
        paths = [tmp_path / f"{number}.txt" for number in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_text(paths)

    return write


# ----------------------------------------------------------------------------------------------------- tokens
def test_tokens_hold_the_bytes_of_the_text_and_a_character_is_in_the_first_of_its_tokens(saved, written):
    text, content = written(words(60)), words(60)
    tokenizer = byte_level([content[:150]])
    tokenizer.add_special_tokens(["<eos>"])  # which stands in the text too
    path = saved(tokenizer)
    found = TokenizerFile(path).tokens(text)
    assert int(found.sizes.sum()) == len(text.content) and int(found.bounds[-1]) == len(text.content)
    names = Tokenizer.from_file(str(path)).encode(content).tokens  # a letter of a name is a byte
    characters = torch.tensor([0] + [len(c.encode()) for c in content]).cumsum(0)
    ends = torch.tensor([len(name) for name in names]).cumsum(0)
    within = characters[torch.searchsorted(characters, ends)]
    assert torch.equal(found.bounds[1:], within)
    assert (found.sizes == 0).any() and (found.sizes > 3).any() and found.vocabulary > 256
    assert found.bytes_per_token == pytest.approx(len(text.content) / len(names))


def test_files_are_encoded_one_by_one_in_stretches_that_end_with_a_line(saved, written, monkeypatch):
    first, second = words(100) + " al", "pha " + words(40, of=("one", "line", "żółw"))
    tokenizer = TokenizerFile(saved(byte_level([first])))
    text = written(first, second)
    whole = tokenizer.tokens(text)
    monkeypatch.setattr(module, "AT_ONCE", 50)
    found = tokenizer.tokens(text)
    assert len(found.ids) >= len(whole.ids) and found.vocabulary == whole.vocabulary
    for tokens in (whole, found):
        assert tokenizer.decode(tokens.ids.tolist()) == first + second
        assert int(tokens.sizes.sum()) == len(text.content)
        assert len(first.encode()) in tokens.bounds  # no token is of two files
    stretches = list(module._stretches(first))
    assert "".join(stretches) == first and max(map(len, stretches)) <= 50
    assert all(each.endswith("\n") or "\n" not in each for each in stretches[:-1])
    assert sum(each.endswith("\n") for each in stretches) > 3


def test_what_else_stands_in_a_file_leaves_no_text_out_and_draws_no_token(saved, written):
    """Truncation, padding, special tokens at the ends, trimmed offsets, and merges left out by chance."""
    text, plain = written(words(80)), byte_level([words(80)])
    other = Tokenizer.from_str(plain.to_str())
    other.model.dropout = 0.5
    other.enable_truncation(5)
    other.enable_padding(length=500)
    template = processors.TemplateProcessing(single="a $A b", special_tokens=[("a", 1), ("b", 2)])
    other.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    one, two = (
        TokenizerFile(saved(each, name)).tokens(text) for each, name in ((plain, "one"), (other, "two"))
    )
    assert torch.equal(one.ids, two.ids) and torch.equal(one.sizes, two.sizes)


def test_tokens_travel_as_a_file(saved, written):
    text = written(words(50))
    tokens = TokenizerFile(saved(byte_level())).tokens(text)
    again = Tokens.from_file(tokens.to_file())
    assert torch.equal(again.ids, tokens.ids) and torch.equal(again.sizes, tokens.sizes)
    assert again.vocabulary == tokens.vocabulary and again.to_file() == tokens.to_file()


def test_without_a_tokenizer_every_byte_is_a_token(written):
    text, bytes_ = written("żółw"), encoding(None)
    tokens = bytes_.tokens(text)
    assert isinstance(bytes_, Bytes) and tokens.ids.tolist() == list("żółw".encode())
    assert tokens.sizes.tolist() == [1] * 7 and tokens.vocabulary == 256 and tokens.bytes_per_token == 1.0
    assert bytes_.decode(tokens.ids.tolist()) == "żółw" and bytes_.files(tokens) == {} == bytes_.facts


def lower_casing():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def without_blanks():
    tokenizer = Tokenizer(models.WordLevel({"alpha": 0, "beta": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def unknowing():
    tokenizer = Tokenizer(models.WordLevel({"alpha": 0, " ": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer, content, sentence",
    [
        (
            lower_casing,
            "alpha Beta alpha",
            r"0\.txt back: 'alpha Beta alp' becomes 'alpha beta alp'\. Use one",
        ),
        (without_blanks, "alpha  beta\n", "does not give .*0.txt back"),
        (unknowing, "alpha beta", r"'alpha beta' becomes 'alpha \?'"),
        (byte_level, "naïve".encode("latin-1"), r"0\.txt is not UTF-8 \(byte 2\).*leave out --tokenizer"),
    ],
)
def test_a_tokenizer_that_loses_or_changes_text_is_refused(tokenizer, content, sentence, saved, written):
    with pytest.raises(ValueError, match=sentence):
        TokenizerFile(saved(tokenizer())).tokens(written(content))


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "cannot be read .No such file or directory.*Name a tokenizer.json"),
        ("folder", "cannot be read .Is a directory"),
        (b"{}", "is no tokenizer"),
        (b'{"model": 3', "is no tokenizer"),
        (b"\xff\xfe", "is no tokenizer"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named(content, sentence, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        TokenizerFile(path)
    assert str(path) in str(caught.value)


def test_pieces_of_tokens_are_pieces_of_bytes(saved, written):
    """So copies are found in them as in bytes."""
    drawn = torch.randint(33, 900, (8000,), generator=torch.Generator().manual_seed(1)).tolist()
    once, other = "".join(map(chr, drawn[:6000])), "".join(map(chr, drawn[6000:]))
    text = written(once, other, once)
    tokens = TokenizerFile(saved(byte_level([once[:200]]))).tokens(text)
    parts = tokens.in_bytes(split(len(tokens.ids), 32))
    pieces = sorted(
        (p for each in (parts.train, parts.tuning, parts.validation) for p in each), key=lambda p: p.start
    )
    assert pieces[0].start == 0 and pieces[-1].stop == len(text.content)
    assert all(one.stop == other.start for one, other in zip(pieces, pieces[1:]))
    assert "learn it by heart" in cautions(text, parts)[-1]


# ---------------------------------------------------------------------------------------------------- figures
def test_the_bits_per_byte_of_a_uniform_model_are_those_of_its_vocabulary(saved, written):
    text = written(words(200))
    tokens = TokenizerFile(saved(byte_level([words(50)]))).tokens(text)

    class Uniform(torch.nn.Linear):
        def forward(self, input_ids, use_cache):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, tokens.vocabulary))

    windows = tokens.at(places(torch.tensor([0, 13, 40]), 31))
    bytes_ = sum(int(tokens.bounds[start + 32] - tokens.bounds[start + 1]) for start in (0, 13, 40))
    expected = math.log2(tokens.vocabulary) * 3 * 31 / bytes_
    assert abs(bits_per_byte(Uniform(1, 1), windows, 2) / expected - 1) < FLOAT32


def test_references_count_bytes_and_give_them_to_their_tokens(saved, written):
    """Of every token the sum over its bytes, each from the bytes before it in its window, as if that had been
    the only one; windows differ in length, and one begins within a character."""
    text = written(words(400))
    tokens = TokenizerFile(saved(byte_level([words(30)]))).tokens(text)
    inside = int((tokens.sizes == 0).nonzero()[7])
    whole = places(torch.tensor([inside, 2, 300, 500, 601]), 20)
    read = tokens.bytes_of(torch.arange(len(tokens.ids)) < 500)
    assert torch.equal(read, torch.arange(len(text.content)) < tokens.bounds[500])
    rows = tokens.bytes_at(whole, text.content)
    assert len(set((rows.owner < rows.length).sum(1).tolist())) > 2
    found = count(text.content, read, rows, rows, rows, cache=True)
    grams, order = NGrams.fit(text.content, read), ORDERS.index(int(found[1].name[0]))

    def expected(which: int, least: int = 0) -> torch.Tensor:
        """By the order of the n-grams, with a cache of so many bytes."""
        result = []
        for row in whole:
            ends = [int(tokens.bounds[at]) for at in (*row, row[-1] + 1)]
            window = text.content[ends[0] : ends[-1]].long()[None]
            p = grams.probabilities(window)[which]
            bits = [8.0, *-(with_cache(window, p, least) if least else p)[0].log2()]
            result.append([float(sum(bits[a - ends[0] : b - ends[0]])) for a, b in zip(ends[1:], ends[2:])])
        return torch.tensor(result)

    cached = min((expected(order, least) for least in (3, 4, 5)), key=torch.sum)
    for one, other in zip(found, (expected(0), expected(order), cached), strict=True):
        assert (one.bits - other).abs().max() < FLOAT32 * other.max()
        assert one.replaced.equal(one.bits)


def test_tokens_that_are_bytes_give_the_figures_of_bytes(saved, written):
    """Though their numbers are others."""
    text = written(words(300, of=("alpha", "beta", "gamma delta", "one line\n")))
    single, own = TokenizerFile(saved(byte_level())).tokens(text), byte_tokens(text.content)
    assert single.sizes.tolist() == own.sizes.tolist() and not torch.equal(single.ids, own.ids.int())
    whole = places(torch.tensor([0, 400, 700]), 64)
    for ngram in (2, 4, 7):
        mask = recall_slice(own.at(whole).ids, ngram)
        assert torch.equal(recall_slice(single.at(whole).ids, ngram), mask) and mask.any()
    read = torch.arange(len(text.content)) < 900
    one, other = (
        count(text.content, read, *[each.bytes_at(whole, text.content)] * 3, cache=True)
        for each in (single, own)
    )
    assert [each.name for each in one] == [each.name for each in other]
    assert all(torch.equal(a.bits, b.bits) for a, b in zip(one, other))


def test_tokens_of_a_large_vocabulary_are_looked_up():
    few = torch.randint(0, 3, (20, 60), generator=torch.Generator().manual_seed(0))
    for ngram in (2, 4, 9):
        assert torch.equal(recall_slice(few * 2**30, ngram), recall_slice(few, ngram))
    with pytest.raises(ValueError, match="at least 2"):
        recall_slice(few, 1)


def test_a_resample_without_a_byte_is_left_out_whatever_bits_it_has():
    sizes, bits = torch.tensor([[0, 0], [3, 1]]), torch.tensor([[[5.0, 1.0], [2.0, 6.0]]])
    bootstrap = Bootstrap(torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]).double(), sizes)
    found = bootstrap.bits_per_byte(bits, torch.ones(2, 2, dtype=torch.bool)).tolist()
    assert found[0] == 14 / 4 and math.isnan(found[1]) and found[2] == 2.0


# ------------------------------------------------------------------------------------------------ comparisons
TINY = {
    "layers": ("linear-attention", "softmax-attention-qknorm"),
    "steps": 6,
    "width": 16,
    "context": 24,
    "batch": 2,
    "head_size": 8,
    "depth": 1,
    "evaluation_windows": 24,
    "rounds": 1,
    "resamples": 60,
    "seeds": 1,
    "lr": 8e-3,
    "tuning_windows": 24,
}


def on_tokens(folder):
    """The settings of a comparison on tokens of 2 to 3 bytes."""
    content = words(4000, of=(*WORDS[:-1], "gamma12", "delta345"))
    path, tokenizer = folder / "text.txt", folder / "tokenizer.json"
    path.write_text(content)
    byte_level([content[:2000]]).save(str(tokenizer))
    return CompareSettings(files=(path,), tokenizer=tokenizer, out=folder / "out", **TINY)


@pytest.fixture
def settings(tmp_path):
    return on_tokens(tmp_path)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison that is finished: its settings, results, what it printed, its text, and its models and
    cells of the last stage by name."""
    settings = on_tokens(tmp_path_factory.mktemp("compared"))
    console = Console(file=io.StringIO(), width=100)
    results, comparison = compare(settings, console), Comparison(settings, None)
    names = [row["name"] for row in results["memories"]]
    cells = {name: next(settings.out.glob(f"cells/{name}*steps6.*.safetensors")) for name in names}
    return SimpleNamespace(
        settings=settings,
        results=results,
        rows={row["name"]: row for row in results["memories"]},
        printed=console.file.getvalue().replace("\n", " "),
        tokens=comparison.tokens,
        windows=comparison.windows,
        slices=comparison.slices,
        text=comparison.text,
        models={name: TTRForCausalLM.from_pretrained(settings.out / "models" / name) for name in names},
        cells={name: load_tensors(cell) for name, cell in cells.items()},
    )


def test_a_comparison_says_what_its_tokens_are(compared):
    results, tokens = compared.results, compared.tokens
    sha256 = hashlib.sha256(compared.settings.tokenizer.read_bytes()).hexdigest()
    assert results["tokens"] == {
        "unit": "tokens",
        "tokenizer": str(compared.settings.tokenizer),
        "sha256": sha256,
        "count": len(tokens.ids),
        "vocabulary": tokens.vocabulary,
        "bytes_per_token": tokens.bytes_per_token,
        "looked_up": 2,
    }
    assert 2 < tokens.bytes_per_token < 4
    assert results["budget"]["bytes"] == round(6 * 2 * 24 * tokens.bytes_per_token)
    page = (compared.settings.out / "report.html").read_text()
    said = (str(compared.settings.tokenizer), sha256, f"{tokens.vocabulary:,}", "windows of 24 tokens")
    assert all(each in page for each in (*said, "tokens per second", "tokens into the window"))


def test_all_figures_of_runs_are_bits_per_byte(compared):
    """From the bits of every token, which the saved model spends."""
    windows, batch, first = compared.windows, compared.settings.batch, compared.windows.tuning.places[:16]
    for name, row in compared.rows.items():
        (held, facts), model = compared.cells[name], compared.models[name]
        spent = held["bits"].double().sum().item() / int(windows.validation.sizes.sum())
        assert row["bits_per_byte"]["all"]["value"] == pytest.approx(spent)
        assert f"{spent:.3f} bits per byte" in compared.printed
        assert bits_and_hits(model, windows.validation.ids, batch)[0].equal(held["bits"])
        bits, _ = bits_and_hits(model, windows.tuning.ids, batch)
        tuned = bits.double().sum().item() / int(windows.tuning.sizes.sum())
        assert facts["facts"]["tuning_bits_per_byte"] == pytest.approx(tuned)
        judged = pytest.approx(bits_per_byte(model, compared.tokens.at(first), batch))
        assert row["validation_curve"][-1] == [6, judged]
        untrained = math.log2(compared.tokens.vocabulary) / compared.tokens.bytes_per_token
        assert abs(facts["facts"]["loss"][0] / untrained - 1) < 0.1
        for which, part in enumerate((slice(0, 24), slice(24, 48))):
            value = held["long"][:, part].double().sum() / windows.long.sizes[:, part].sum()
            found = compared.results["by_position"]["bits_per_byte"][name][which]
            assert found == pytest.approx(value.item())


def test_all_figures_of_the_whole_are_bits_per_byte(compared):
    results, sizes = compared.results, compared.slices.sizes
    assert results["recall_slice"]["validation_bytes"] == int(sizes.sum())
    recalled = int(sizes[compared.slices.recall].sum())
    assert (
        results["recall_slice"]["bytes"]
        == recalled
        == round(results["recall_slice"]["share"] * sizes.sum().item())
    )
    assert all(
        math.isfinite(value) for row in compared.rows.values() for value in row["behind_ngram"].values()
    )
    final = {name: row["bits_per_byte"]["all"]["value"] for name, row in compared.rows.items()}
    equal = results["at_equal_time"]["bits_per_byte"]
    assert any(equal[name] == pytest.approx(final[name]) for name in final)
    assert 3 < results["references"][0]["bits_per_byte"]["all"]["value"] < 8
    lines = list(csv.DictReader((compared.settings.out / "results.csv").read_text().splitlines()))
    for line in lines:
        if line["stage"] == "3" and line["memory"] in final:
            assert float(line["bits_per_byte"]) == pytest.approx(final[line["memory"]])
    shown = compared.printed.partition("After 3 steps: ")[2]
    second = [line for line in lines if line["stage"] == "2"]
    assert len(second) == 3
    assert all(f"{line['memory']} {float(line['bits_per_byte']):.2f}" in shown for line in second)


def test_models_open_with_their_tokenizer(compared):
    text = compared.text.content[:300].numpy().tobytes().decode(errors="ignore")
    for name, model in compared.models.items():
        opened = AutoTokenizer.from_pretrained(compared.settings.out / "models" / name)
        ids = opened(text)["input_ids"]
        assert model.config.vocab_size == compared.tokens.vocabulary
        assert ids[:40] == compared.tokens.ids[:40].tolist() and opened.decode(ids) == text
        given = opened.decode(compared.windows.validation.ids[0])
        assert compared.results["samples"][name].startswith(given)


def test_the_hardest_windows_are_shown_as_they_stand_in_the_text(compared):
    results, windows = compared.results, compared.windows.validation
    content = compared.text.content.numpy().tobytes()
    bits = compared.cells[results["best"]["all"]][0]["bits"].double().sum(1) / windows.sizes.sum(1)
    begins = compared.tokens.bounds[windows.places[:, 0]]
    for window in (*results["hardest"], *results["easiest"]):
        there = content[window["byte"] :].decode(errors="replace")
        assert there.startswith(window["text"].rstrip("\ufffd")) and len(window["text"]) > 24
        assert window["bits"] in [pytest.approx(each) for each in bits[begins == window["byte"]].tolist()]
    assert results["hardest"][0]["bits"] == pytest.approx(bits.max().item())


def test_a_finished_comparison_is_not_computed_again(compared, monkeypatch):
    for name in ("train_and_judge", "count_ngrams"):
        monkeypatch.setattr(
            f"ttr.experiments.language_model.{name}", lambda *_: pytest.fail("computed again")
        )
    assert compare(compared.settings, Console(file=io.StringIO())) == compared.results


def test_cells_travel_with_their_tokens(settings, tmp_path):
    """All that they read are the inputs that they name, so a node of a cluster computes the same."""
    comparison = Comparison(settings, None)
    cell = comparison._counting(2, True)
    folder = tmp_path / "elsewhere"
    (folder / "inputs").mkdir(parents=True)
    assert set(cell.inputs) == {comparison.text.sha256, cell.arguments["tokens"]}
    for sha256 in cell.inputs:
        shutil.copy(comparison.cells / "inputs" / sha256, folder / "inputs")
    settings.tokenizer.unlink()
    compute_cell(cell, folder, lambda *_: None, block=True)
    tensors, _ = cell.load(folder)
    assert tensors["bits.0"].shape == comparison.windows.validation.sizes.shape
    assert 2 < per_byte(tensors["bits.0"], comparison.slices.sizes) < 8


def test_cells_on_bytes_are_those_of_before_there_were_tokenizers(settings, tmp_path):
    comparison = Comparison(CompareSettings(files=settings.files, out=tmp_path / "bytes", **TINY), None)
    assert comparison._common() == {"text": comparison.text.sha256, "recipe": comparison.settings.recipe()}
    assert comparison._counting(2, True).inputs == (comparison.text.sha256,)
    assert (
        "tokenizer" not in comparison.plan.about["text"] and "tokenizer" not in comparison.settings.recipe()
    )


def test_another_tokenizer_is_another_comparison(settings, saved, tmp_path):
    comparison = Comparison(settings, None)
    plan = comparison.plan
    assert CompareSettings.from_dict(plan.about["settings"], out=settings.out, jobs=1) == settings
    held = json.loads((settings.out / "plan.json").read_text())
    del held["settings"]["tokenizer"]
    (settings.out / "plan.json").write_text(json.dumps(held))
    assert CompareSettings.from_dict(held["settings"], out=settings.out).tokenizer is None
    saved(byte_level())
    with pytest.raises(UserError, match="the text's tokenizer"):
        Comparison(settings, None)
    settings.tokenizer.write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer"):
        Comparison(settings, None)


def test_models_of_a_vocabulary_are_of_equal_size(settings):
    found = memories(settings)
    widths = equal_widths(found, settings, 1000)
    sizes = [parameters(build(m, settings, widths[m.name], 0, 1000)) for m in found]
    assert max(sizes) < 1.01 * min(sizes) and min(sizes) > 2 * 1000 * settings.width


def test_a_context_of_tokens_is_said_to_be_one(settings):
    with pytest.raises(UserError, match=r"text has [\d,]+ tokens; a context of 5000"):
        Comparison(dataclasses.replace(settings, context=5000), None)
    with pytest.raises(UserError, match="more than 2, the length"):
        dataclasses.replace(settings, context=2)
    assert dataclasses.replace(settings, context=3).looked_up == 2


def test_steps_are_timed_with_the_vocabulary(settings):
    comparison = Comparison(dataclasses.replace(settings, steps=None, time=60.0), None)
    with Bar(Console(file=io.StringIO())) as bar:
        cost = comparison.clock(bar).cost
    assert set(cost) == set(comparison.by_name) and min(cost.values()) > 0
