"""Real text as bytes: reading, splitting, windows, and the bytes that can be recalled from their window.

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
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

PIECES = 20
"""The least number of pieces that a text is cut into, so that every tenth is a fair sample of it."""

WINDOWS = 8
"""The least number of disjoint windows that fit into a piece."""

PIECE_BYTES = 32_768
"""Length of a piece of a long text: long compared with a window, short compared with a file."""


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
        ValueError: naming the file that is missing, a folder, unreadable, empty, or not text (holds a NUL
            byte).
    """
    parts = [_read(path) for path in files]
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


def split(length: int, context: int) -> Split:
    """Cut ``length`` bytes into pieces and assign them to the three sets; a window of ``context`` + 1 bytes
    never leaves its piece.

    Raises:
        ValueError: if a piece would hold fewer than eight windows, too few for validation.
    """
    needed = WINDOWS * context + 1
    count = max(PIECES, length // max(PIECE_BYTES, needed))
    if length // count < needed:
        fitting = (length // PIECES - 1) // WINDOWS
        remedy = f"Use --context {fitting} or less, or give more text." if fitting >= 1 else "Give more text."
        raise ValueError(
            f"The text has {length:,} bytes; a context of {context} needs at least "
            f"{PIECES * needed:,}. {remedy}"
        )
    pieces = [range(length * i // count, length * (i + 1) // count) for i in range(count)]

    def dealt(*digits: int) -> tuple[range, ...]:
        return tuple(piece for i, piece in enumerate(pieces) if i % 10 in digits)

    return Split(train=dealt(0, 1, 2, 3, 5, 6, 7, 8), tuning=dealt(4), validation=dealt(9))


def training_starts(
    pieces: Sequence[range], context: int, steps: int, batch: int, seed: int
) -> Int[Tensor, "steps batch"]:
    """The first bytes of the windows of every training step: uniform over all positions in the pieces,
    determined by ``seed``."""
    places = torch.tensor([len(piece) - context for piece in pieces])
    ends = places.cumsum(0)
    drawn = torch.randint(int(ends[-1]), (steps, batch), generator=torch.Generator().manual_seed(seed))
    piece = torch.searchsorted(ends, drawn, right=True)
    return torch.tensor([piece.start for piece in pieces])[piece] + drawn - (ends - places)[piece]


def evaluation_starts(pieces: Sequence[range], context: int, limit: int) -> Int[Tensor, " windows"]:
    """The first bytes of consecutive windows of the pieces, in which no byte is predicted twice; if there are
    more than ``limit``, evenly spaced ones."""
    starts = torch.tensor(
        [start for piece in pieces for start in range(piece.start, piece.stop - context, context)]
    )
    count = min(limit, len(starts))
    return starts[torch.arange(count) * len(starts) // count]


def windows(content: UInt8[Tensor, " N"], starts: Int[Tensor, " W"], context: int) -> Int[Tensor, "W L"]:
    """The windows of L = ``context`` + 1 bytes: the first ``context`` are read, the last ``context`` are
    predicted."""
    return content[starts[:, None] + torch.arange(context + 1)].long()


def recall_slice(windows: Int[Tensor, "W L"], ngram: int) -> Bool[Tensor, "W L-1"]:
    """The predicted bytes that can be looked up: those whose preceding n-gram occurred earlier in the same
    window.

    Entry (w, i) is about byte x = windows[w, i+1], predicted from windows[w, :i+1]. It is True if the n bytes
    before x are equal to n consecutive bytes that end earlier in the window, so that a byte has followed them
    before: exists j < i with windows[w, j-n+1 : j+1] = windows[w, i-n+1 : i+1], j >= n-1. An n-gram of one
    byte repeated is left out: continuing a run of blanks needs no memory, and in source code such runs are
    two fifths of all repeats. The byte that followed need not be x: the slice is chosen from the input of the
    model, never from its target. After the repeated bigrams of Arora et al., "Zoology", arXiv 2312.04927,
    which likewise leave out the most frequent ones; here n bytes replace their two tokens.

    Raises:
        ValueError: if ``ngram`` is not from 2 to 7 (one byte is always a run; eight overflow the integer they
            are packed into).
    """
    if not 2 <= ngram <= 7:
        raise ValueError(f"The n-gram must have 2 to 7 bytes, not {ngram}.")
    mask = torch.zeros(windows.shape[0], windows.shape[1] - 1, dtype=torch.bool)
    if windows.shape[1] <= ngram:
        return mask
    grams = windows.unfold(1, ngram, 1)[:, :-1]  # the last n-gram has no byte after it
    code = (grams * 256 ** torch.arange(ngram)).sum(-1)
    # stable: the first occurrence leads its group, all others are repeats
    ordered, order = code.sort(dim=1, stable=True)
    repeats = torch.zeros_like(code, dtype=torch.bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    uniform = (grams == grams[..., :1]).all(-1)
    mask[:, ngram - 1 :] = torch.zeros_like(repeats).scatter(1, order, repeats) & ~uniform
    return mask


def distant_slice(windows: Int[Tensor, "W L"], ngram: int) -> Bool[Tensor, "W L-1"]:
    """Which bytes can be looked up in the first half of their window alone: they lie in the second half, and
    the n-gram before them occurred earlier in the window, but not in the second half.

    What a model loses on them when the first half is replaced is what it had recalled from there."""
    half = (windows.shape[1] - 1) // 2
    near = torch.zeros(windows.shape[0], windows.shape[1] - 1, dtype=torch.bool)
    near[:, half:] = recall_slice(windows[:, half:], ngram)
    near[:, : half + ngram - 1] = True  # the n-gram itself lies in the first half, or the byte does
    return recall_slice(windows, ngram) & ~near


def shuffled(mask: Bool[Tensor, "W T"], seed: int) -> Bool[Tensor, "W T"]:
    """The mask with its entries permuted over all windows and positions: a meaningless slice of the same
    size."""
    return mask.flatten()[
        torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed))
    ].reshape(mask.shape)
