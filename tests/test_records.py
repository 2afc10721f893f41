"""Planted key-value records: what a window holds, and that its repeated values are known to whoever keeps
them and to nobody else."""

import pytest
import torch

from ttr.tasks.ngrams import NGrams, with_cache
from ttr.tasks.records import CHANCE_BITS, RecordSettings, records


def text(window: torch.Tensor) -> str:
    return bytes(window.tolist()).decode()


def of_values(drawn, row: int, times: int) -> str:
    """The bytes of a window about which ``stated`` says ``times``."""
    return text(drawn.windows[row, 1:][drawn.stated[row] == times])


def test_a_window_by_hand():
    """Two records of "kk=VV;" and 5 fillers: 24 bytes of records whole, then 4 of the next one."""
    settings = RecordSettings(pairs=2, key_length=2, value_length=2, distance=5, context=32)
    drawn = records(settings, 50, seed=0)
    for row in range(50):
        window = text(drawn.windows[row])
        stated, fillers, rest = window[:12], window[12:17], window[17:]
        values = {stated[i : i + 2]: stated[i + 3 : i + 5] for i in (0, 6)}
        assert len(window) == 33 and len(values) == 2 and fillers.isdecimal()
        assert all(key.isalpha() and key.islower() for key in values)
        assert all(value.isalpha() and value.isupper() for value in values.values())
        assert sorted(rest[:12].split(";")[:2]) == sorted(stated.split(";")[:2])
        cut = rest[12:]  # of the third time
        assert cut[:2] in values and cut == f"{cut[:2]}={values[cut[:2]][:1]}"
        assert of_values(drawn, row, 0) == "".join(values.values())
        assert of_values(drawn, row, 1) == rest[3:5] + rest[9:11]
        assert of_values(drawn, row, 2) == cut[3:]
    assert torch.equal(drawn.repeated, drawn.stated > 0)
    assert drawn.stated[0].tolist() == [-1, -1, 0, 0, -1] + [-1, -1, -1, 0, 0, -1] + [-1] * 5 + [
        *(-1, -1, -1, 1, 1, -1),
        *(-1, -1, -1, 1, 1, -1),
        *(-1, -1, -1, 2),
    ]


def test_records_are_repeated_in_any_order():
    windows = [text(row) for row in records(RecordSettings(pairs=2, context=24), 40, seed=1).windows]
    same = [window[:5] == window[10:15] for window in windows]
    assert any(same) and not all(same)


def test_windows_follow_from_the_seed_and_leave_the_global_generator_alone():
    settings, before = RecordSettings(pairs=3, distance=4), torch.get_rng_state()
    one, same, other = (records(settings, 2, seed) for seed in (5, 5, 6))
    assert torch.equal(one.windows, same.windows) and not torch.equal(one.windows, other.windows)
    assert torch.equal(before, torch.get_rng_state())


def test_all_keys_can_be_used():
    window = text(records(RecordSettings(pairs=26, key_length=1), 1, seed=0).windows[0])
    assert len(set(window[: 26 * 4 : 4])) == 26


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"pairs": 1, "key_length": 0}, "key_length must be at least 1"),
        ({"pairs": 1, "value_length": 0}, "value_length must be at least 1"),
        ({"pairs": 1, "distance": -1}, "distance must not be negative"),
        ({"pairs": 27, "key_length": 1}, "only 26 keys of 1 letters.*fewer pairs"),
        ({"pairs": 26}, "take 260 bytes, more than the 257.*greater context"),
        ({"pairs": 25, "distance": 8}, "take 258 bytes"),
    ],
)
def test_impossible_windows_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        RecordSettings(**wrong)


@pytest.mark.parametrize("pairs, distance", [(4, 0), (8, 40), (24, 0)])
def test_a_cache_of_the_window_knows_what_counting_cannot(pairs, distance):
    """The bigrams know no more than that a letter follows "="; longer n-grams take the values of other
    windows for a rule."""
    settings = RecordSettings(pairs, distance=distance)
    drawn, training = records(settings, 20, seed=0), records(settings, 400, seed=1).windows
    content = training.flatten().to(torch.uint8)
    counted = NGrams.fit(content, torch.ones(len(content), dtype=torch.bool)).probabilities(drawn.windows)
    bits = -counted.log2()[:, drawn.repeated].mean(-1)
    assert bits.min() == bits[1] and abs(bits[1] - CHANCE_BITS) < 0.05 and bits[0] > CHANCE_BITS + 1
    cached = with_cache(drawn.windows, counted[1], 3)
    assert (cached[drawn.repeated] > 0.5).double().mean() > 0.99
    assert -cached[drawn.repeated].log2().mean() < 0.15 * CHANCE_BITS
    assert -cached[drawn.stated == 0].log2().mean() > CHANCE_BITS - 0.05
