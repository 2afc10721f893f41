"""Tokens of a tokenizer file: they give the text back, hold its bytes, and all figures are bits per byte."""

import csv
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
from ttr.experiments.references import count
from ttr.experiments.settings import CompareSettings
from ttr.experiments.statistics import Bootstrap
from ttr.experiments.storage import load_tensors
from ttr.laws.tolerances import FLOAT32, FLOAT64
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
    path = saved(byte_level([content[:150]]))
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
    monkeypatch.setattr(module, "STRETCH", 50)
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


@pytest.fixture
def settings(tmp_path, saved):
    """Of a comparison on tokens of 2 to 3 bytes."""
    content = words(4000, of=(*WORDS[:-1], "gamma12", "delta345"))
    path, tokenizer = tmp_path / "text.txt", saved(byte_level([content[:2000]]))
    path.write_text(content)
    return CompareSettings(files=(path,), tokenizer=tokenizer, out=tmp_path / "out", **TINY)


def run(settings, plan=None):
    console = Console(file=io.StringIO(), width=100)
    return compare(settings, console, plan), console.file.getvalue()


def test_a_comparison_on_tokens(settings, monkeypatch):
    """Its figures are bits per byte of the same text everywhere, its models open with their tokenizer, and it
    is not computed again."""
    results, printed = run(settings)
    comparison = Comparison(settings, None)
    tokens, windows = comparison.tokens, comparison.windows
    assert results["tokens"] == {
        "unit": "tokens",
        "tokenizer": str(settings.tokenizer),
        "sha256": comparison.encoding.facts["tokenizer"],
        "count": len(tokens.ids),
        "vocabulary": tokens.vocabulary,
        "bytes_per_token": tokens.bytes_per_token,
        "looked_up": 2,
    }
    assert 2 < tokens.bytes_per_token and results["budget"]["bytes"] == round(
        6 * 2 * 24 * tokens.bytes_per_token
    )
    page = (settings.out / "report.html").read_text()
    for words_ in (str(settings.tokenizer), comparison.encoding.facts["tokenizer"], f"{tokens.vocabulary:,}"):
        assert words_ in page
    assert "windows of 24 tokens" in page and "tokens per second" in page and "tokens into the window" in page

    def check_figures(row, cell, model):
        sizes = windows.validation.sizes
        held, facts = load_tensors(cell)
        facts, spent = facts["facts"], per_byte(held["bits"], sizes)
        assert abs(held["bits"].double().sum().item() / int(sizes.sum()) / spent - 1) < FLOAT64
        assert row["bits_per_byte"]["all"]["value"] == pytest.approx(spent)
        assert f"{spent:.3f} bits per byte" in printed
        bits, _ = bits_and_hits(model, windows.tuning.ids, settings.batch)
        tuning = bits.double().sum().item() / int(windows.tuning.sizes.sum())
        assert facts["tuning_bits_per_byte"] == pytest.approx(tuning)
        part = tokens.at(windows.tuning.places[:16])
        assert row["validation_curve"][-1] == [6, pytest.approx(bits_per_byte(model, part, settings.batch))]
        first = math.log2(tokens.vocabulary) / tokens.bytes_per_token
        assert abs(facts["loss"][0] / first - 1) < 0.1
        for which, (a, b) in enumerate(((0, 24), (24, 48))):
            value = held["long"][:, a:b].double().sum() / windows.long.sizes[:, a:b].sum()
            found = results["by_position"]["bits_per_byte"][row["name"]][which]
            assert found == pytest.approx(value.item())
        assert bits_and_hits(model, windows.validation.ids, settings.batch)[0].equal(held["bits"])

    for row in results["memories"]:
        folder = settings.out / "models" / row["name"]
        model, opened = TTRForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        text = comparison.text.content[:300].numpy().tobytes().decode(errors="ignore")
        ids = opened(text)["input_ids"]
        assert model.config.vocab_size == tokens.vocabulary
        assert ids[:40] == tokens.ids[:40].tolist() and opened.decode(ids) == text
        check_figures(row, next(settings.out.glob(f"cells/{row['name']}*steps6.*.safetensors")), model)
        assert results["samples"][row["name"]].startswith(opened.decode(windows.validation.ids[0]))
    rows = list(csv.DictReader((settings.out / "results.csv").read_text().splitlines()))
    best = {row["name"]: row["bits_per_byte"]["all"]["value"] for row in results["memories"]}
    last = [row for row in rows if row["stage"] == "3" and row["memory"] in best]
    assert all(float(row["bits_per_byte"]) == pytest.approx(best[row["memory"]]) for row in last)
    shown = printed.partition("After 2 steps: ")[2].replace("\n", " ")
    second = {row["memory"]: f"{float(row['bits_per_byte']):.2f}" for row in rows if row["stage"] == "2"}
    assert all(f"{name} {bits}" in shown for name, bits in second.items())
    content = comparison.text.content.numpy().tobytes()
    own = load_tensors(next(settings.out.glob(f"cells/{results['best']['all']}*steps6.*.safetensors")))[0][
        "bits"
    ]
    for window in (*results["hardest"], *results["easiest"]):
        assert content[window["byte"] :].decode(errors="replace").startswith(window["text"].rstrip("\ufffd"))
        at = (tokens.bounds[windows.validation.places[:, 0]] == window["byte"]).nonzero()[:, 0]
        value = own[at].double().sum(1) / windows.validation.sizes[at].sum(1)
        assert window["bits"] in [pytest.approx(each) for each in value.tolist()]
    assert all(
        math.isfinite(each) for row in results["memories"] for each in row["bits_per_byte"]["all"].values()
    )
    for name in ("train_and_judge", "count_ngrams"):
        monkeypatch.setattr(
            f"ttr.experiments.language_model.{name}", lambda *_: pytest.fail("computed again")
        )
    assert run(settings)[0] == results


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
    assert CompareSettings.from_dict(plan.about["settings"], settings.out, 1) == settings
    held = json.loads((settings.out / "plan.json").read_text())
    del held["settings"]["tokenizer"]
    (settings.out / "plan.json").write_text(json.dumps(held))
    assert CompareSettings.from_dict(held["settings"], settings.out, 1).tokenizer is None
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
        Comparison(CompareSettings(**vars(settings) | {"context": 5000}), None)
    with pytest.raises(UserError, match="more than 2, the length"):
        CompareSettings(**vars(settings) | {"context": 2})
    assert CompareSettings(**vars(settings) | {"context": 3}).looked_up == 2
