"""The figures of a comparison: the recall slice, calibrated intervals, sentences that follow from them, a
picture that shows them."""

import dataclasses
import itertools

import pytest
import torch

from ttr.experiments import picture
from ttr.experiments.budget import Budgets
from ttr.experiments.equal_memories import told_apart_from_itself
from ttr.experiments.memories import PLAIN
from ttr.experiments.references import UNIGRAM, Reference
from ttr.experiments.results import PRACTICAL, Measured, Slices, relation, slice_gap, summarise, undecided
from ttr.experiments.statistics import Bootstrap, Interval, Spread, behind_best, interval, power
from ttr.experiments.verdict import conclusion
from ttr.experiments.words import size
from ttr.laws.tolerances import FLOAT32, FLOAT64
from ttr.tasks.text import (
    evaluation_starts,
    recall_slice,
    shuffled,
    split,
    standard_library,
    training_starts,
    windows,
)


# ------------------------------------------------------------------------------------------------------- text
def recall_by_hand(row, n):
    """The docstring of ``recall_slice``, literally."""
    found = []
    for i in range(len(row) - 1):
        gram = row[i - n + 1 : i + 1] if i >= n - 1 else None
        earlier = any(row[j - n + 1 : j + 1] == gram for j in range(n - 1, i))
        found.append(gram is not None and len(set(gram)) > 1 and earlier)
    return found


@pytest.mark.parametrize("ngram", [2, 3, 4, 7])
def test_the_recall_slice_is_what_its_docstring_says(ngram):
    rows = torch.randint(0, 3, (20, 60), generator=torch.Generator().manual_seed(ngram)) * 127
    rows[0] = 32  # one byte only: nothing to recall
    assert recall_slice(rows, ngram).tolist() == [recall_by_hand(row, ngram) for row in rows.tolist()]
    assert recall_slice(rows, ngram)[1:].any() and not recall_slice(rows, ngram)[0].any()


def test_the_recall_slice_of_a_sentence():
    """'the cat the cow': the bytes after the second 'the ' and 'he c' could be looked up; the looked-up byte
    itself is not used."""
    sentence = b"the cat the cow"
    mask = recall_slice(torch.tensor([list(sentence)]), 4)[0]
    assert [sentence[i + 1 : i + 2] for i in range(len(sentence) - 1) if mask[i]] == [b"c", b"o"]


def test_splits_share_no_byte_and_windows_stay_inside_them():
    parts = split(50_000, 64)
    covered = [i for pieces in dataclasses.astuple(parts) for piece in pieces for i in piece]
    assert sorted(covered) == list(range(50_000))
    pieces = (range(10, 20), range(30, 36))
    assert set(training_starts(pieces, 5, 50, 20, 0).flatten().tolist()) == {10, 11, 12, 13, 14, 30}
    assert evaluation_starts(pieces, 4, 100).tolist() == [10, 14, 30] and evaluation_starts(
        pieces, 4, 2
    ).tolist() == [10, 14]


def test_data_follow_from_the_seed_alone():
    pieces = split(50_000, 64).train
    assert torch.equal(training_starts(pieces, 64, 5, 3, 7), training_starts(pieces, 64, 5, 3, 7))
    assert not torch.equal(training_starts(pieces, 64, 5, 3, 7), training_starts(pieces, 64, 5, 3, 8))
    content = torch.arange(100, dtype=torch.uint8)
    assert windows(content, torch.tensor([3, 90]), 5).tolist() == [
        [3, 4, 5, 6, 7, 8],
        [90, 91, 92, 93, 94, 95],
    ]


def test_the_default_text_is_pythons_own():
    files = standard_library()
    assert any(path.name == "argparse.py" for path in files) and files == tuple(sorted(files))


# ------------------------------------------------------------------------------------------------- statistics
def test_the_estimate_is_the_mean_over_bytes():
    bits, mask = torch.rand(2, 30, 9), torch.rand(30, 9) < 0.3
    estimate = interval(Bootstrap.draw(ones(30, 9), 50).bits_per_byte(bits, mask)).value
    assert abs(estimate - bits.double()[:, mask].mean().item()) < FLOAT64


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        draws = Bootstrap.draw(ones(60, 4), 200).bits_per_byte(
            torch.randn(1, 60, 4, generator=generator), torch.ones(60, 4, dtype=torch.bool)
        )
        found = interval(draws)
        hits += found.low <= 0 <= found.high
    assert 180 <= hits <= 198


def ones(*shape):
    """The sizes of tokens that are bytes."""
    return torch.ones(shape, dtype=torch.int64)


def measured(name, bits, replaced=None, earlier=None, state=64):
    facts = {
        "parameters": 10,
        "state_bytes": state,
        "loss": [3.0, 2.0],
        "curve": [[1, 3.0], [2, 2.0]],
        "diverged_at": None,
    }
    replaced = bits if replaced is None else replaced
    hits = bits < 2.5
    earlier = {1: bits[0]} if earlier is None else earlier
    return Measured(name, 0.01, False, bits, replaced, hits, [facts] * len(bits), earlier, bits[0])


def judged(runs, frequencies, mask, resamples, distant=None, better=0.5, plain=0.0):
    """The figures of runs; of an n-gram that is ``better`` than the frequencies by so many bits, and a plain
    transformer that is better by ``plain``."""
    counted = [Reference(UNIGRAM, frequencies, frequencies)]
    counted += [
        Reference(name, frequencies - better, frequencies - better) for name in ("5-gram", "5-gram + cache")
    ]
    transformer = measured(PLAIN, (frequencies - plain)[None], state=None)
    slices = Slices(mask, mask if distant is None else distant, ones(*mask.shape))
    results = summarise(runs, transformer, counted, slices, resamples)
    for row in results["memories"]:
        row |= {"training_tokens_per_second": 5.0, "decoding_tokens_per_second": 7.0, "disturbed": False}
    budgets = Budgets(runs, {1: counted[1], 8: counted[1]}, slices.sizes, 8, resamples)
    return results | {
        "timed": True,
        "start": {"pretrained": None},
        "cautions": ["Look out."],
        "budget": {"bytes": 8000, "steps": 8},
        "crossings": budgets.crossings(),
        "until_counting": budgets.until_counting(results["best"]["all"], 1000),
    }


def test_pairing_separates_what_marginal_intervals_do_not():
    """Windows differ far more than memories; comparing on the same windows makes the small difference
    significant."""
    generator = torch.Generator().manual_seed(0)
    hard = 2 + torch.rand(1, 100, 1, generator=generator).expand(1, 100, 20)
    worse = hard + 0.05 + 0.01 * torch.randn(1, 100, 20, generator=generator)
    mask = torch.rand(100, 20, generator=generator) < 0.3
    runs = [measured("a", worse), measured("b", hard), measured("c", hard.clone())]
    results = judged(runs, hard[0] + 2, mask, 300)
    rows = {row["name"]: row for row in results["memories"]}
    assert rows["a"]["bits_per_byte"]["all"]["low"] < rows["b"]["bits_per_byte"]["all"]["high"]
    assert rows["a"]["behind_best"]["all"]["low"] > 0
    assert rows["a"]["behind_best"]["recall"]["low"] > 0
    first = conclusion(results)[0]
    assert first.startswith("b (") and "is ahead of a by 0.05" in first
    assert first.endswith("c is equal to it for practical purposes.")
    assert results["references"][0]["name"] == UNIGRAM and rows["a"]["under_unigram"]["low"] > 0.5


@pytest.mark.parametrize(
    "above, first",
    [
        ((0.1, 0.2, -0.7), "c ("),
        ((0.1, 0.2, 0.3), "a, b and c are no better than the byte frequencies"),
    ],
)
def test_memories_that_learned_nothing_are_all_named_and_not_praised(above, first):
    frequencies = 3 + torch.rand(60, 10, generator=torch.Generator().manual_seed(0))
    runs = [measured(name, frequencies[None] + extra) for name, extra in zip("abc", above, strict=True)]
    mask = torch.rand(60, 10, generator=torch.Generator().manual_seed(1)) < 0.3
    sentences = conclusion(judged(runs, frequencies, mask, 100))
    assert sentences[0].startswith(first)
    assert "a and b are no better" in sentences[-2] or sentences[0].startswith("a, b and c are")
    assert sentences[-1] == "Look out."


def even(*gaps, seeds=1):
    """Memories that lie these distances apart on every byte, and a slice."""
    spent = 2 + torch.rand(seeds, 60, 10, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(60, 10, generator=torch.Generator().manual_seed(1)) < 0.3
    return [measured(name, spent + gap) for name, gap in zip("abcdef", gaps)], spent, mask


def test_a_memory_that_counting_beats_does_not_predict_best():
    runs, spent, mask = even(0.0, 0.2)
    behind, ahead = (conclusion(judged(runs, spent[0] + 1, mask, 200, better=b)) for b in (1.3, 0.7))
    assert behind[1].startswith("No memory predicts better than counting yet: a is 0.30 bits per byte behind")
    assert "a 5-gram of the same 8 kB" in behind[1] and behind[1].endswith("the distance does not shrink.")
    assert ahead[1] == "a predicts this text better than a 5-gram of the same bytes, by 0.30 bits per byte."
    assert all(
        sentences[0].startswith("a (") and "ahead of b by 0.2" in sentences[0]
        for sentences in (behind, ahead)
    )


def test_a_difference_too_small_to_matter_is_none():
    for gap, words in (
        (0.9 * PRACTICAL, "No memory is ahead of the others."),
        (1.5 * PRACTICAL, "is ahead of b by 0.030"),
    ):
        runs, spent, mask = even(0.0, gap)
        results = judged(runs, spent[0] + 1, mask, 200)
        assert results["memories"][1]["behind_best"]["all"]["low"] > 0 and words in conclusion(results)[0]
        assert undecided(runs, Slices(mask, mask, ones(60, 10)), 200) == []


def test_what_seeds_leave_open_is_said_and_trained_further():
    """The seeds of each memory differ by 0.2 bits, so 0.1 between two of them says nothing, and 9 bits do."""
    runs, spent, mask = even(0.0, 0.1, 9.0, seeds=2)
    luck = torch.tensor([-0.1, 0.1])[:, None, None]
    runs = [dataclasses.replace(run, bits=spent[:1] + luck + gap) for run, gap in zip(runs, (0.0, 0.1, 9.0))]
    first, second, *_ = conclusion(judged(runs, spent[0] + 12, mask, 400))
    assert "is ahead of c by 9.0" in first and first.endswith("b is not told apart from it in this time.")
    assert second.startswith("With 2 seeds a difference of 0.") and "four of five" in second
    assert undecided(runs, Slices(mask, mask, ones(60, 10)), 400) == ["a", "b"]


@pytest.mark.full
@pytest.mark.parametrize("names", ["ab", "abcde"])
def test_equal_memories_are_called_behind_in_one_of_twenty_comparisons_by_both_looks(names):
    """Two seeds of all, then five of those that are open; seeds and windows make the differences."""
    generator, called, pairs = torch.Generator().manual_seed(3), 0, 0
    mask = torch.ones(40, 1, dtype=torch.bool)
    slices = Slices(mask, mask, ones(40, 1))
    for _ in range(300):
        hard = torch.randn(1, 40, 1, generator=generator)
        runs = {}
        for name in names:
            luck, own = (torch.randn(n, generator=generator) for n in ((5, 1, 1), (1, 40, 1)))
            runs[name] = hard + 0.05 * luck + 0.05 * own
        bits = {name: each[:2] for name, each in runs.items()}
        again = undecided([measured(name, each) for name, each in bits.items()], slices, 600)
        bits |= {name: runs[name] for name in again}
        draws = Bootstrap.draw(ones(40, 1), 600).with_seeds(bits, mask)
        best = min(names, key=lambda name: float(draws[name][0]))
        kinds = [relation(vars(behind_best(draws, name))) for name in names if name != best]
        called, pairs = called + kinds.count("behind"), pairs + len(kinds)
    assert pairs / 100 < called < pairs / 12


def test_a_memory_is_told_apart_from_itself_where_its_seeds_fall_into_two_kinds():
    """Seeds of one kind never are; of two kinds a bit apart, where one group has the first and one the
    second: 9 of the 45 pairs of pairs of six seeds."""
    spent = torch.rand(1, 30, 4, generator=torch.Generator().manual_seed(0)).expand(6, 30, 4)
    kinds = torch.tensor([0.0, 1.0])[torch.arange(6) // 3][:, None, None]
    same, two = (told_apart_from_itself(each, ones(30, 4), 2, 500) for each in (spent, spent + kinds))
    assert same == {"seeds": 2, "pairs": 45, "share": 0.0, "low": 0.0, "high": 0.0}
    assert two["share"] == pytest.approx(9 / 45) and two["low"] < two["share"] < two["high"]


def test_the_plain_transformer_is_a_reference():
    runs, spent, mask = even(0.0, 0.5)
    for better, words in ((1.3, "worse than"), (1.0, "no worse than"), (0.5, "better than")):
        results = judged(runs, spent[0] + 1, mask, 200, plain=better)
        assert conclusion(results)[2].startswith(f"It is {words} a plain transformer")
        assert results["references"][-1]["name"] == PLAIN


def test_the_best_at_recalling_is_one_that_recalls():
    """a predicts the slice best, but only b loses anything if the first half of its windows is replaced."""
    spent = 2 + torch.rand(1, 60, 10, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(60, 10, generator=torch.Generator().manual_seed(1)) < 0.3
    without = conclusion(judged([measured("a", spent), measured("b", spent + 0.1)], spent[0] + 1, mask, 200))
    assert without[3].startswith("No memory recalls yet") and not any("recall slice" in s for s in without)
    runs = [measured("a", spent), measured("b", spent + 0.1, spent + 0.1 + 0.4 * mask)]
    one = conclusion(judged(runs, spent[0] + 1, mask, 200))
    assert "there: b 0.40 bits; 5-gram + cache gains 0.00" in one[3] and not any(
        "recall slice" in s for s in one
    )
    runs = [measured("a", spent, spent + 0.3 * mask), measured("b", spent + 0.1, spent + 0.1 + 0.4 * mask)]
    both = conclusion(judged(runs, spent[0] + 1, mask, 200))
    assert "there: b 0.40 and a 0.30 bits" in both[3] and both[4].startswith(
        "a spends least on the recall slice"
    )


def test_a_seed_that_disagrees_widens_the_interval():
    even, mask = torch.full((2, 50, 8), 2.0), torch.ones(50, 8, dtype=torch.bool)
    uneven = even + torch.tensor([-0.3, 0.4])[:, None, None]
    bootstrap = Bootstrap.draw(ones(50, 8), 200)
    narrow, wide = (interval(bootstrap.with_seeds({"a": bits}, mask)["a"]) for bits in (even, uneven))
    assert narrow.high - narrow.low < FLOAT64 and wide.high - wide.low > 0.5


@pytest.mark.parametrize("seeds", [2, 4])
def test_equal_memories_are_told_apart_about_as_seldom_as_the_intervals_say(seeds):
    """Four memories of the same quality, whose runs differ by seed far more than the windows explain."""
    generator, apart, pairs = torch.Generator().manual_seed(2), 0, 0
    mask, bootstrap = torch.ones(40, 5, dtype=torch.bool), Bootstrap.draw(ones(40, 5), 1000)
    for _ in range(300):
        hard = torch.randn(1, 40, 5, generator=generator)
        luck = 0.1 * torch.randn(4, seeds, 1, 1, generator=generator)
        draws = bootstrap.with_seeds({name: hard + own for name, own in zip("abcd", luck)}, mask)
        for first, second in itertools.combinations("abcd", 2):
            found = interval(draws[first] - draws[second])
            apart, pairs = apart + (found.low > 0 or found.high < 0), pairs + 1
    assert 0.02 * pairs < apart < 0.08 * pairs


def test_the_distance_to_the_best_allows_for_the_choice_of_the_best():
    """Of two memories it is the interval of their difference; among ten equal ones it is wider."""
    draws = {str(i): torch.randn(4001, generator=torch.Generator().manual_seed(i)) for i in range(10)}
    for i, each in enumerate(draws.values()):
        each[0] = 0.0
        each += 5.0 + i
    two = behind_best({name: draws[name] for name in "01"}, "1")
    plain = interval(draws["1"] - draws["0"])
    assert two.value == plain.value == 1.0
    assert abs(two.low - plain.low) < 0.1 and abs(two.high - plain.high) < 0.1
    ten = behind_best(draws, "1")
    assert ten.value == 1.0 and ten.low < two.low - 0.3 and ten.high > two.high + 0.3
    assert behind_best(draws, "0") == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("freedom, student", [(2, 4.303), (4, 2.776), (10, 2.228)])
def test_resamples_are_moved_as_far_as_students_distribution_says(freedom, student):
    """97.5 % quantiles of one memory and of the difference of two, for whichever two; by a thousand
    independent draws they would be off by up to a fifth."""
    bootstrap, still = Bootstrap.draw(ones(4, 1), 1000), torch.zeros(1001, dtype=torch.float64)
    moved = [bootstrap.moved(still, 1, Spread(1.0, freedom), which) for which in range(6)]
    for one, other in itertools.pairwise(moved):
        assert abs(one[1:].abs().quantile(0.95) / student - 1) < 0.1
        assert abs((one - other)[1:].abs().quantile(0.95) / 2**0.5 / student - 1) < 0.15
        assert one[0] == 0.0


def test_power_is_what_a_comparison_of_two_normal_means_has():
    """With many degrees of freedom the margin is 1.96 deviations of the difference, and 80 % lie 0.84 of them
    further out."""
    of_seeds, over_windows, seeds = 0.04, 0.03, 2
    deviation = (2 * of_seeds**2 / seeds + over_windows**2) ** 0.5
    found = power(Spread(of_seeds**2, 500), over_windows, 2, seeds, 0.0)
    assert abs(found.false_alarms - 0.05) < 0.02
    assert abs(found.detectable / ((1.96 + 0.84) * deviation) - 1) < 0.08
    many = power(Spread(of_seeds**2, 500), over_windows, 6, seeds, 0.0)
    assert many.detectable > 1.1 * found.detectable and many.false_alarms < 0.06
    few = power(Spread(of_seeds**2, 3), over_windows, 2, seeds, 0.0)
    assert few.detectable > 1.2 * found.detectable and abs(few.false_alarms - 0.05) < 0.03
    assert power(Spread(0.0, 0), over_windows, 2, seeds, 0.0) is None
    certain = power(Spread(0.0, 500), 0.0, 2, seeds, PRACTICAL)
    assert certain.false_alarms == 0.0 and abs(certain.detectable / PRACTICAL - 1) < 0.1


def test_seeds_of_the_reference_do_not_widen_the_intervals_of_the_memories():
    spent = 2 + torch.rand(1, 60, 10, generator=torch.Generator().manual_seed(0))
    runs = [measured("a", spent + torch.tensor([-0.01, 0.01])[:, None, None])]
    mask, widths = torch.ones(60, 10, dtype=torch.bool), []
    counted = [Reference(name, spent[0], spent[0]) for name in (UNIGRAM, "5-gram", "5-gram + cache")]
    for move in (0.01, 1.0):
        plain = measured(PLAIN, spent + torch.tensor([-move, move])[:, None, None])
        results = summarise(runs, plain, counted, Slices(mask, mask, ones(*mask.shape)), 200)
        own = results["memories"][0]["bits_per_byte"]["all"]
        reference = results["references"][-1]["bits_per_byte"]["all"]
        widths.append((own["high"] - own["low"], reference["high"] - reference["low"]))
    (own, reference), (same, wider) = widths
    assert own == same and wider > 10 * reference


@pytest.mark.parametrize("seconds", [None, 600.0])
def test_what_more_seeds_find_is_said_where_the_order_is_open(seconds):
    """Seeds differ by 0.04: two of them leave 0.1 bits open, and the least number in the list that finds 0.05
    is named."""
    generator = torch.Generator().manual_seed(0)
    of_windows = 3 + torch.rand(1, 60, 1, generator=generator)
    bits = [of_windows + move for move in torch.tensor([[-0.04, 0.04], [-0.02, 0.05]])[..., None, None]]
    mask = torch.rand(60, 10, generator=generator) < 0.3
    runs = [measured(name, each.expand(2, 60, 10)) for name, each in zip("ab", bits)]
    results = judged(runs, of_windows[0].expand(60, 10), mask, 400)
    more = results["power"]["more_seeds"]
    found = [row["detectable"] for row in more]
    assert found == sorted(found, reverse=True) and found[0] < results["power"]["detectable"]
    enough = next(row for row in more if row["detectable"] <= 0.05)
    assert 0.05 < more[more.index(enough) - 1]["detectable"] and enough["seeds"] > 4
    for row in more:
        row["seconds"] = seconds and seconds * row["seeds"]
    sentence = next(sentence for sentence in conclusion(results) if "four of five" in sentence)
    assert f"0.05 bits take {enough['seeds']} (--seeds {enough['seeds']} --steps 8)" in sentence
    assert (f"about {10 * enough['seeds']} minutes in all" in sentence) == (seconds is not None)
    fewer = measured("c", 1 + bits[0].expand(2, 60, 10)[:1])  # one that was far behind got no further seeds
    assert judged([*runs, fewer], of_windows[0].expand(60, 10), mask, 400)["power"]["seeds"] == 2


def budgets(bits, counted, steps=8):
    """Of memories whose bits per byte after 1, 2 and 8 steps are these, the same on every byte."""
    everywhere = torch.ones(1, 20, 5)
    runs = [
        measured(name, last * everywhere, earlier={1: first * everywhere[0], 2: second * everywhere[0]})
        for name, (first, second, last) in bits.items()
    ]
    references = {
        n: Reference("5-gram", c * everywhere[0], everywhere[0]) for n, c in zip((1, 2, steps), counted)
    }
    return Budgets(runs, references, ones(20, 5), steps, 50)


def test_the_distance_to_counting_is_drawn_out_to_zero():
    """1.0, 0.9 and 0.7 bits behind after 1, 2 and 8 steps of 1000 bytes: 0.1 less with every doubling."""
    falling = budgets({"a": (4.0, 3.4, 2.7)}, (3.0, 2.5, 2.0)).until_counting("a", 1000)
    assert all(abs(falling[key] / (1000 * 2**10) - 1) < FLOAT32 for key in ("value", "low", "high"))
    rising = budgets({"a": (4.0, 3.6, 3.3)}, (3.0, 2.5, 2.0)).until_counting("a", 1000)
    assert rising == {"value": None, "low": None, "high": None}


def test_memories_whose_order_turns_round_are_named():
    found = budgets(
        {"a": (3.0, 2.5, 2.4), "b": (4.0, 3.0, 2.0), "c": (3.0, 2.5, 2.0 + PRACTICAL / 2)}, (3, 3, 3)
    )
    assert found.crossings() == [("a", "b")]  # c never was ahead of a beyond doubt


def test_equal_time_lies_between_the_budgets():
    """The fastest takes 8 s for all; the others have done 4 and 2 of 8 steps by then, one not even one."""
    found = budgets({name: (4.0, 3.0, 2.0) for name in "abcd"}, (3, 3, 3))
    table = found.at_equal_time({"a": 1.0, "b": 2.0, "c": 4.0, "d": 9.0})
    assert table["seconds"] == 8.0
    bits = table["bits_per_byte"]
    assert (
        bits["a"] == pytest.approx(2.0)
        and bits["b"] == pytest.approx(2.5)
        and bits["c"] == pytest.approx(3.0)
    )
    assert bits["d"] is None


def test_sizes_are_read_by_people():
    assert [size(n) for n in (512, 8192, 102_400, 1.5e6, 123e6, 2e9)] == [
        "512 bytes",
        "8.2 kB",
        "102 kB",
        "1.5 MB",
        "123 MB",
        "2 GB",
    ]


def test_the_gap_of_the_slice_vanishes_with_its_mask_shuffled():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(200, 50, generator=generator) < 0.25
    best = 3 + torch.randn(1, 200, 50, generator=generator)
    behind = best + 0.4 + 0.8 * mask  # worse everywhere, and more so where there is something to recall
    bootstrap, chance = Bootstrap.draw(ones(200, 50), 300), shuffled(mask, 0)
    true, false = (interval(slice_gap(bootstrap, behind, best, m)) for m in (mask, chance))
    assert abs(true.value - 0.8) < FLOAT32 and true.low > 0.7
    assert chance.sum() == mask.sum() and false.low < 0 < false.high < 0.1


# ---------------------------------------------------------------------------------------------------- picture
def drawn(monkeypatch, sizes, curves, unchanged=None):
    """The panels of a comparison with these state sizes and validation curves, whose byte frequencies cost 4
    bits."""
    figures = []
    monkeypatch.setattr(
        picture, "Figure", lambda *a, whole=picture.Figure, **k: figures.append(whole(*a, **k)) or figures[-1]
    )
    frequencies = torch.full((20, 6), 4.0)
    rows = [measured(f"memory-{i}", 3 + torch.rand(1, 20, 6)) for i in range(len(sizes))]
    results = judged(rows, frequencies, torch.rand(20, 6) < 0.5, 20)
    for row, size_, curve in zip(results["memories"], sizes, curves, strict=True):
        row.update(state_bytes=size_, validation_curve=list(enumerate(curve, 1)))
    by_position = {"ends": [8, 16], "bits_per_byte": {row.name: [3.0, 60.0] for row in rows}}
    results |= {"definitions": {row.name: {} for row in rows}, "by_position": by_position}
    results["references"][-1]["state_bytes"] = unchanged
    picture.draw(results | {"tokens": {"unit": "bytes"}})
    return figures[0].axes


@pytest.mark.parametrize(
    "curves, low", [(([8.0, 7.0], [8.0, 6.0]), 3.5), (([1e12, 1e13], [8.0, 3.0]), 3.0), (([], []), 3.5)]
)
def test_the_learning_panel_shows_the_curves_and_the_references(curves, low, monkeypatch):
    """A diverged run does not stretch the axis; nor does a length at which a memory fails."""
    panels = drawn(monkeypatch, (512, 1024), curves)
    bottom, top = panels[2].get_ylim()
    assert 0.9 * low < bottom < low and 4.0 < top < 4.5
    bottom, top = panels[3].get_ylim()
    assert bottom < 3.0 < top < 4.0


@pytest.mark.parametrize(
    "sizes, shown",
    [
        ((16384, 20992, 35840, 266240), ["16 KiB", "35 KiB", "260 KiB"]),
        ((512, 512), ["512 B"]),
        ((4096, 8192), ["4 KiB", "8 KiB"]),
    ],
)
def test_the_state_panel_names_sizes_that_occur_and_no_label_covers_another(sizes, shown, monkeypatch):
    axis = drawn(monkeypatch, sizes, [[3.9]] * len(sizes))[1].xaxis
    assert [label.get_text() for label in axis.get_ticklabels()] == shown and not axis.get_ticklabels(
        minor=True
    )
    boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_an_unchanged_model_stands_in_grey_beside_its_memories(monkeypatch):
    """At its distance from the best, which spends about 3.5 bits where it spends 4."""
    distances, state, *_ = drawn(monkeypatch, (512, 512), [[3.9]] * 2, unchanged=8192)
    (line,) = [each for each in distances.lines if each.get_linestyle() == "--"]
    assert line.get_label() == PLAIN and 0.4 < line.get_xdata()[0] < 0.6
    (point,) = [each for each in state.lines if each.get_label() == PLAIN]
    assert point.get_xdata()[0] == 8192 and 0.3 < point.get_ydata()[0] < 0.7
    assert [label.get_text() for label in state.xaxis.get_ticklabels()] == ["512 B", "8 KiB"]
