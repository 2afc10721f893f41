"""Real text: reading, splitting, windows, and the tokens that can be recalled from their window. A token is a
byte, or what tokens.py makes of some.

Every function is pure; none draws from a global generator.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int, Integer, UInt8
from torch import Tensor

PIECES = 20
"""The least number of pieces that a text is cut into, so that every tenth is a fair sample of it."""

WINDOWS = 8
"""The least number of disjoint windows that fit into a piece."""

PIECE_TOKENS = 32_768
"""Tokens of a piece of a long text: long compared with a window, short compared with a file."""

STRETCH, CHUNK = 256, 32
"""Bytes of a stretch of text that is looked for elsewhere, and of the chunks that it is looked up by."""

REPEATED = 0.05
"""The share of the validation text from which on its repetition is reported. Python's standard library, which
has no copies, repeats 1 %, as source code does."""


@dataclass(frozen=True)
class Text:
    """Bytes [N] read from files, the names they came from and their sizes, and their fingerprint."""

    content: UInt8[Tensor, " N"]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    sha256: str

    def place(self, byte: int) -> tuple[str, int]:
        """The file that a byte of the content is from, and which byte of it."""
        ends = list(itertools.accumulate(self.sizes))
        file = bisect.bisect_right(ends, byte)
        return self.names[file], byte - (ends[file] - self.sizes[file])


def standard_library() -> tuple[Path, ...]:
    """The default text: the modules of Python's own standard library, by name; about four megabytes that
    every machine has."""
    folder = Path(sysconfig.get_path("stdlib"))
    return tuple(path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_"))


def read_text(files: Sequence[Path]) -> Text:
    """The files' bytes, one after the other in the order given.

    Raises:
        ValueError: naming the file that is missing, a folder, unreadable, empty, not text (holds a NUL byte),
            or named twice.
    """
    parts = [_read(path) for path in files]
    named: dict[Path, Path] = {}
    for path in files:
        place = path.resolve()
        if place in named:
            first = "" if named[place] == path else f", first as {named[place]}"
            raise ValueError(f"{path} is named twice{first}. Name it once.")
        named[place] = path
    content = b"".join(parts)
    return Text(
        torch.frombuffer(bytearray(content), dtype=torch.uint8),
        tuple(map(str, files)),
        tuple(map(len, parts)),
        hashlib.sha256(content).hexdigest(),
    )


def _read(path: Path) -> bytes:
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder. Name the text files in it, for example {path}/*.txt.")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}. Check the name.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from None
    if not content:
        raise ValueError(f"{path} is empty. Name a file that holds text.")
    if 0 in content:
        raise ValueError(
            f"{path} is not text: it holds a NUL byte. Name text files (UTF-8, Latin-1, source code, ...)."
        )
    return content


@dataclass(frozen=True)
class Split:
    """Disjoint pieces of a text: eight of every ten for training, one for tuning, one for validation."""

    train: tuple[range, ...]
    tuning: tuple[range, ...]
    validation: tuple[range, ...]


def split(length: int, context: int, unit: str = "bytes") -> Split:
    """Cut ``length`` tokens into pieces and assign them to the three sets; a window of ``context`` + 1 tokens
    never leaves its piece. ``unit`` is what people call the tokens.

    Raises:
        ValueError: if a piece would hold fewer than eight windows, too few for validation.
    """
    needed = WINDOWS * context + 1
    count = max(PIECES, length // max(PIECE_TOKENS, needed))
    if length // count < needed:
        fitting = (length // PIECES - 1) // WINDOWS
        remedy = f"Use --context {fitting} or less, or give more text." if fitting >= 1 else "Give more text."
        raise ValueError(
            f"The text has {length:,} {unit}; a context of {context} needs at least "
            f"{PIECES * needed:,}. {remedy}"
        )
    pieces = [range(length * i // count, length * (i + 1) // count) for i in range(count)]

    def dealt(*digits: int) -> tuple[range, ...]:
        return tuple(piece for i, piece in enumerate(pieces) if i % 10 in digits)

    return Split(train=dealt(0, 1, 2, 3, 5, 6, 7, 8), tuning=dealt(4), validation=dealt(9))


def cautions(text: Text, parts: Split) -> tuple[str, ...]:
    """What makes this text unfit to judge models on, a sentence each: files that are copies of each other,
    and validation text that occurs in the training text as well."""
    found = [
        f"{', '.join(names)} hold the same bytes, so a model may be judged on text that it was trained on. "
        "Name one of them."
        for names in copies(text)
    ]
    share = repeated_share(text.content, parts.train, parts.validation)
    if share >= REPEATED:
        found.append(
            f"{share:.0%} of the validation text occurs word for word in the training text, where a model "
            "can learn it by heart. Leave copies out of the files."
        )
    return tuple(found)


def copies(text: Text) -> tuple[tuple[str, ...], ...]:
    """The names of files with equal bytes, a group for each content that occurs more than once."""
    groups: dict[bytes, list[str]] = {}
    for name, part in zip(text.names, text.content.split(text.sizes)):
        groups.setdefault(hashlib.sha256(part.numpy()).digest(), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def repeated_share(
    content: UInt8[Tensor, " N"], training: Sequence[range], validation: Sequence[range]
) -> float:
    """The share of the stretches of the validation pieces whose chunks all occur in the training pieces, each
    at any place; 0 if no piece is as long as a stretch."""
    stretches = []
    for piece in validation:
        count = len(piece) // STRETCH
        hashes = _hashes(content[piece.start : piece.stop])[::CHUNK]
        stretches.append(hashes[: count * STRETCH // CHUNK].reshape(count, STRETCH // CHUNK))
    wanted, at = torch.cat(stretches).unique(return_inverse=True)
    if not len(wanted):
        return 0.0
    occurs = torch.zeros_like(wanted, dtype=torch.bool)
    for piece in training:
        hashes = _hashes(content[piece.start : piece.stop])
        nearest = torch.searchsorted(wanted, hashes).clamp(max=len(wanted) - 1)
        occurs[nearest[wanted[nearest] == hashes]] = True
    return occurs[at].all(1).double().mean().item()


def _hashes(content: UInt8[Tensor, " N"]) -> Int[Tensor, " places"]:
    """A number for the chunk that begins at every place: its bytes as the digits of a polynomial modulo 2^64,
    of twice the length in every step. It is the same for equal chunks, and practically only for those."""
    hashes, base, length = content.long() + 1, torch.tensor(6364136223846793005), 1
    while length < CHUNK:
        hashes = hashes[:-length] * base + hashes[length:]
        base, length = base * base, 2 * length
    return hashes


def training_starts(
    pieces: Sequence[range], context: int, steps: int, batch: int, seed: int
) -> Int[Tensor, "steps batch"]:
    """The first tokens of the windows of every training step: uniform over all positions in the pieces,
    determined by ``seed``."""
    places = torch.tensor([len(piece) - context for piece in pieces])
    ends = places.cumsum(0)
    drawn = torch.randint(int(ends[-1]), (steps, batch), generator=torch.Generator().manual_seed(seed))
    piece = torch.searchsorted(ends, drawn, right=True)
    return torch.tensor([piece.start for piece in pieces])[piece] + drawn - (ends - places)[piece]


def evaluation_starts(pieces: Sequence[range], context: int, limit: int) -> Int[Tensor, " windows"]:
    """The first tokens of consecutive windows of the pieces, in which no token is predicted twice; if there
    are more than ``limit``, evenly spaced ones."""
    starts = torch.tensor(
        [start for piece in pieces for start in range(piece.start, piece.stop - context, context)]
    )
    count = min(limit, len(starts))
    return starts[torch.arange(count) * len(starts) // count]


def places(starts: Int[Tensor, " W"], context: int) -> Int[Tensor, "W L"]:
    """Which tokens stand in the windows of L = ``context`` + 1 tokens."""
    return starts[:, None] + torch.arange(context + 1)


def windows(content: Integer[Tensor, " N"], starts: Int[Tensor, " W"], context: int) -> Int[Tensor, "W L"]:
    """The windows of L = ``context`` + 1 tokens: the first ``context`` are read, the last ``context`` are
    predicted."""
    return content[places(starts, context)].long()


def recall_slice(windows: Int[Tensor, "W L"], ngram: int) -> Bool[Tensor, "W L-1"]:
    """The predicted tokens that can be looked up: those whose preceding n-gram occurred earlier in the same
    window.

    Entry (w, i) is about token x = windows[w, i+1], predicted from windows[w, :i+1]. It is True if the n
    tokens before x are equal to n consecutive tokens that end earlier in the window, so that a token has
    followed them before: exists j < i with windows[w, j-n+1 : j+1] = windows[w, i-n+1 : i+1], j >= n-1. An
    n-gram of one token repeated is left out: continuing a run of blanks needs no memory, and in source code
    such runs are two fifths of all repeats. The token that followed need not be x: the slice is chosen from
    the input of the model, never from its target. After the repeated bigrams of Arora et al., "Zoology",
    arXiv 2312.04927, which likewise leave out the most frequent ones; where tokens are bytes, four of them
    replace their two tokens.

    Raises:
        ValueError: if ``ngram`` is less than 2 (one token is always a run).
    """
    if ngram < 2:
        raise ValueError(f"The n-gram must have at least 2 tokens, not {ngram}.")
    mask = torch.zeros(windows.shape[0], windows.shape[1] - 1, dtype=torch.bool)
    if windows.shape[1] <= ngram:
        return mask
    grams = windows.unfold(1, ngram, 1)[:, :-1]  # the last n-gram has no token after it
    code = _numbered(grams)
    # stable: the first occurrence leads its group, all others are repeats
    ordered, order = code.sort(dim=1, stable=True)
    repeats = torch.zeros_like(code, dtype=torch.bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    uniform = (grams == grams[..., :1]).all(-1)
    mask[:, ngram - 1 :] = torch.zeros_like(repeats).scatter(1, order, repeats) & ~uniform
    return mask


def _numbered(grams: Int[Tensor, "W G n"]) -> Int[Tensor, "W G"]:
    """A number for every n-gram, the same for equal ones alone. It is less than their count, so that another
    token behind it does not overflow."""
    vocabulary, (number, *others) = int(grams.max()) + 1, grams.unbind(-1)
    for token in others:
        number = (number * vocabulary + token).unique(return_inverse=True)[1]
    return number


def distant_slice(windows: Int[Tensor, "W L"], ngram: int) -> Bool[Tensor, "W L-1"]:
    """Which tokens can be looked up in the first half of their window alone: they lie in the second half, and
    the n-gram before them occurred earlier in the window, but not in the second half.

    What a model loses on them when the first half is replaced is what it had recalled from there."""
    half = (windows.shape[1] - 1) // 2
    near = torch.zeros(windows.shape[0], windows.shape[1] - 1, dtype=torch.bool)
    near[:, half:] = recall_slice(windows[:, half:], ngram)
    near[:, : half + ngram - 1] = True  # the n-gram itself lies in the first half, or the token does
    return recall_slice(windows, ngram) & ~near


def shuffled(mask: Bool[Tensor, "W T"], seed: int) -> Bool[Tensor, "W T"]:
    """The mask with its entries permuted over all windows and positions: a meaningless slice of the same
    size."""
    return mask.flatten()[
        torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed))
    ].reshape(mask.shape)
