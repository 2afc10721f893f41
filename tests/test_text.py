"""Files that repeat each other are refused or reported, and so is validation text that was trained on."""

import random

import pytest
import torch

from ttr.tasks.text import (
    CHUNK,
    STRETCH,
    cautions,
    copies,
    read_text,
    repeated_share,
    split,
    standard_library,
)


def random_bytes(length: int, seed: int) -> bytes:
    """Bytes other than NUL, in which no chunk occurs twice."""
    return bytes(random.Random(seed).choices(range(1, 256), k=length))


@pytest.fixture
def files(tmp_path):
    """Write contents to files; return their paths."""

    def write(*contents: bytes):
        paths = [tmp_path / f"{number}.txt" for number in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_bytes(content)
        return paths

    return write


def test_a_file_named_twice_is_refused(files, tmp_path, monkeypatch):
    one, other = files(b"one", b"other")
    with pytest.raises(ValueError, match=r"0\.txt is named twice\. Name it once\."):
        read_text([one, other, one])
    (tmp_path / "link.txt").symlink_to(one)
    with pytest.raises(ValueError, match=r"link\.txt is named twice, first as .*0\.txt\. Name it once\."):
        read_text([one, tmp_path / "link.txt"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="named twice, first as"):
        read_text([one, one.relative_to(tmp_path)])


def test_copies_are_told_by_their_bytes(files):
    text = read_text(files(b"one", b"other", b"one", b"One", b"other", b"one"))
    assert text.sizes == (3, 5, 3, 3, 5, 3)
    names = [[name[-5:] for name in group] for group in copies(text)]
    assert names == [["0.txt", "2.txt", "5.txt"], ["1.txt", "4.txt"]]


def share(content: bytes, training: list[range], validation: list[range]) -> float:
    return repeated_share(torch.frombuffer(bytearray(content), dtype=torch.uint8), training, validation)


def share_by_definition(content: bytes, training: list[range], validation: list[range]) -> float:
    read = [content[piece.start : piece.stop] for piece in training]
    found = []
    for piece in validation:
        for start in range(piece.start, piece.stop - STRETCH + 1, STRETCH):
            chunks = [content[at : at + CHUNK] for at in range(start, start + STRETCH, CHUNK)]
            found.append(all(any(chunk in part for part in read) for chunk in chunks))
    return sum(found) / len(found) if found else 0.0


def test_the_share_that_is_repeated_is_that_of_its_definition():
    generator = random.Random(0)
    content = bytearray(random_bytes(20 * STRETCH, seed=1))
    for _ in range(40):  # chunks, and some whole stretches, copied to odd places
        length = generator.choice([CHUNK, 3 * CHUNK, 2 * STRETCH])
        source, target = (generator.randrange(len(content) - length) for _ in range(2))
        content[target : target + length] = content[source : source + length]
    bounds = [0, 1000, 1700, 1700 + STRETCH, 4000, len(content)]
    pieces = [range(*ends) for ends in zip(bounds, bounds[1:])]
    shares = set()
    for validation in pieces:
        training = [piece for piece in pieces if piece != validation]
        shares.add(share(bytes(content), training, [validation]))
        assert share(bytes(content), training, [validation]) == share_by_definition(
            bytes(content), training, [validation]
        )
    assert len(shares) > 2


def test_a_stretch_is_found_at_any_place_and_only_as_a_whole():
    stretch, before = random_bytes(STRETCH, seed=1), random_bytes(77, seed=2)
    content = before + stretch + before + stretch
    copied, training = range(77 + STRETCH + 77, len(content)), range(77 + STRETCH + 77)
    assert share(content, [training], [copied]) == 1.0
    assert share(content, [training[:-78]], [copied]) == 0.0  # its last byte is missing there
    assert share(content, [training], [copied[1:]]) == 0.0  # shorter than a stretch
    assert share(content, [], [copied]) == 0.0


def test_a_text_beside_its_copy_brings_cautions(files):
    content, other = random_bytes(40_000, seed=1), random_bytes(9_000, seed=2)
    once, twice = read_text(files(content, other)), read_text(files(content, other, content))
    assert cautions(once, split(len(once.content), 64)) == ()
    copy, repeated = cautions(twice, split(len(twice.content), 64))
    assert "0.txt" in copy and "2.txt hold the same bytes" in copy and "Name one of them." in copy
    assert "% of the validation text occurs word for word in the training text" in repeated
    assert int(repeated.partition("%")[0]) > 30


def test_a_copy_with_small_changes_brings_a_caution(files):
    content = random_bytes(40_000, seed=1)
    changed = content[:3_000] + b"a change" + content[4_000:20_000] + content[20_100:]
    text = read_text(files(content, changed))
    (repeated,) = cautions(text, split(len(text.content), 64))
    assert "learn it by heart" in repeated


def test_the_default_text_needs_no_caution():
    text = read_text(standard_library())
    assert cautions(text, split(len(text.content), 256)) == ()
