"""A text as tokens, bytes or those of a tokenizer file, and how many bytes of the text each of them holds.

Models predict tokens; figures are bits per byte of the text, whatever its tokens are, and so comparable.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from safetensors.torch import load, save
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from ttr.tasks.text import Split, Text

BYTES = 256
"""The vocabulary of a text whose tokens are its bytes."""
BITS_OF_A_BYTE = 8.0
AT_ONCE = 2**18
"""Characters that are encoded at once: more take longer for each."""


@dataclass(frozen=True)
class Tokens:
    """A text of N tokens.

    Attributes:
        ids: which of the ``vocabulary`` each is.
        sizes: bytes of each. A character that is split has its bytes in the first of its tokens, and the
            others have none.
    """

    ids: Integer[Tensor, " N"]
    sizes: Integer[Tensor, " N"]
    vocabulary: int

    @functools.cached_property
    def bounds(self) -> Int[Tensor, " bounds"]:
        """The first byte of every token, and as the last of N + 1 entries the end of the text."""
        return torch.nn.functional.pad(self.sizes.cumsum(0), (1, 0))

    @property
    def bytes_per_token(self) -> float:
        return int(self.sizes.sum(dtype=torch.int64)) / len(self.ids)

    def at(self, places: Int[Tensor, "W L"]) -> TokenWindows:
        """Windows of the tokens at these places."""
        return TokenWindows(places, self.ids[places].long(), self.sizes[places[:, 1:]].long())

    def bytes_at(self, places: Int[Tensor, "W L"], content: UInt8[Tensor, " bytes"]) -> WindowBytes:
        """The bytes of such windows."""
        sizes, length = self.sizes[places].long(), places.shape[1]
        ends = sizes.cumsum(1)
        column = torch.arange(int(ends[:, -1].max())).expand(len(places), -1).contiguous()
        owner = torch.searchsorted(ends, column, right=True)
        inside = owner.clamp(max=length - 1)
        at = self.bounds[places].gather(1, inside) + column - (ends - sizes).gather(1, inside)
        found = content[at.clamp(max=len(content) - 1)].long()
        return WindowBytes(torch.where(owner < length, found, 0), owner, length)

    def bytes_of(self, chosen: Bool[Tensor, " N"]) -> Bool[Tensor, " bytes"]:
        """Which bytes belong to the chosen tokens."""
        return chosen.repeat_interleave(self.sizes.long())

    def in_bytes(self, parts: Split) -> Split:
        """The bytes of pieces of the text."""

        def of(pieces: Sequence[range]) -> tuple[range, ...]:
            return tuple(range(int(self.bounds[p.start]), int(self.bounds[p.stop])) for p in pieces)

        return Split(of(parts.train), of(parts.tuning), of(parts.validation))

    def to_file(self) -> bytes:
        """What ``from_file`` reads."""
        return save({"ids": self.ids, "sizes": self.sizes, "vocabulary": torch.tensor(self.vocabulary)})

    @staticmethod
    def from_file(content: bytes) -> Tokens:
        held = load(content)
        return Tokens(held["ids"], held["sizes"], int(held["vocabulary"]))


@dataclass(frozen=True)
class TokenWindows:
    """Windows of L tokens; all but the first are predicted, T = L - 1.

    Attributes:
        places: which tokens of the text they are.
        ids: of every token.
        sizes: bytes of every predicted token.
    """

    places: Int[Tensor, "W L"]
    ids: Int[Tensor, "W L"]
    sizes: Int[Tensor, "W T"]


@dataclass(frozen=True)
class WindowBytes:
    """The bytes of windows, with zeros behind those of the shorter ones.

    Attributes:
        rows: the bytes.
        owner: which of the ``length`` tokens of its window a byte is from; ``length`` for the zeros.
    """

    rows: Int[Tensor, "W B"]
    owner: Int[Tensor, "W B"]
    length: int

    def by_token(self, bits: Float[Tensor, "W others"]) -> Float[Tensor, "W T"]:
        """The bits of every predicted token, from those of every byte but the first.

        The first byte has nothing before it and costs 8 bits. It is predicted only where a window begins
        within a character."""
        first = bits.new_full((len(bits), 1), BITS_OF_A_BYTE)
        sums = bits.new_zeros(len(bits), self.length + 1)
        return sums.scatter_add(1, self.owner, torch.cat([first, bits], dim=1))[:, 1:-1]


def byte_tokens(content: UInt8[Tensor, " N"]) -> Tokens:
    """A text whose tokens are its bytes."""
    return Tokens(content, torch.ones(1, dtype=torch.uint8).expand(len(content)), BYTES)


class Bytes:
    """Every byte is a token."""

    unit = "bytes"
    facts: dict[str, Any] = {}
    vocabulary = BYTES
    end: int | None = None

    def tokens(self, text: Text) -> Tokens:
        return byte_tokens(text.content)

    def document(self, content: UInt8[Tensor, " N"], name: str) -> Int[Tensor, " N"]:
        """The ids of a document."""
        return content.int()

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def files(self, tokens: Tokens) -> dict[str, bytes]:
        """What the cells of a comparison read beside the text, by the name of their argument."""
        return {}

    def save(self, folder: Path) -> None:
        """Put a tokenizer where transformers looks for that of a model."""
        _save(byte_tokenizer().to_str().encode(), folder)


class TokenizerFile:
    """The tokens of a JSON file of the tokenizers library, without special ones at the ends of a text.

    Attributes:
        facts: what identifies it, JSON-ready.
        end: the token that ends a document, if there is one.

    Raises:
        ValueError: if the file is missing or damaged.
    """

    unit = "tokens"
    end: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content = path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"The tokenizer {path} cannot be read ({error.strerror}). Name a tokenizer.json."
            ) from None
        try:
            self.tokenizer = Tokenizer.from_str(self.content.decode())
        except Exception as error:  # the library raises nothing more special
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"{path} is no tokenizer ({reason}). Name a tokenizer.json that the tokenizers library saved."
            ) from None
        self.facts = {"tokenizer": hashlib.sha256(self.content).hexdigest()}
        # what may stand in a file, and would leave out text, or draw tokens by chance
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.post_processor = None
        if hasattr(self.tokenizer.model, "dropout"):
            self.tokenizer.model.dropout = None

    def tokens(self, text: Text) -> Tokens:
        """The files of a text, encoded one by one.

        Raises:
            ValueError: naming the file that is not UTF-8, or that the tokens do not give back as it is.
        """
        parts = []
        for name, content in zip(text.names, text.content.split(text.sizes)):
            parts += [self._encoded(part, name) for part in _stretches(_decoded(content, name))]
        ids, sizes = (torch.cat(each) for each in zip(*parts))
        return Tokens(ids, sizes, self.vocabulary)

    @property
    def vocabulary(self) -> int:
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def document(self, content: UInt8[Tensor, " bytes"], name: str) -> Int[Tensor, " N"]:
        """The ids of a document, also where the tokens do not give it back as it is.

        Raises:
            ValueError: if it is not UTF-8.
        """
        parts = (
            self.tokenizer.encode(part, add_special_tokens=False).ids
            for part in _stretches(_decoded(content, name))
        )
        return torch.tensor([token for part in parts for token in part], dtype=torch.int32)

    def _encoded(self, text: str, name: str) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
        """The ids and sizes of a stretch of text."""
        found = self.tokenizer.encode(text, add_special_tokens=False)
        again = self.decode(found.ids)
        if again != text:
            same = len(os.path.commonprefix([again, text]))
            here, there = (repr(each[max(same - 8, 0) : same + 8]) for each in (text, again))
            raise ValueError(
                f"The tokenizer {self.path} does not give {name} back: {here} becomes {there}. Use one that "
                "keeps every character, such as a byte-level BPE, or none."
            )
        return torch.tensor(found.ids, dtype=torch.int32), sizes_of(text, found.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def files(self, tokens: Tokens) -> dict[str, bytes]:
        """The tokens themselves: so cells do not depend on the version of the library."""
        return {"tokens": tokens.to_file()}

    def save(self, folder: Path) -> None:
        """Put the file where transformers looks for a model's tokenizer."""
        _save(self.content, folder)


def _save(tokenizer: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are the 256 bytes, with their numbers as ids.

    Every byte is written as a character that can be seen (GPT-2, Radford et al. 2019): itself, if it can be
    seen in Latin-1, else one of those from 256 on in turn."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(BYTES) if byte not in seen]
    vocabulary = {chr(byte): byte for byte in seen}
    vocabulary |= {chr(BYTES + place): byte for place, byte in enumerate(unseen)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


Encoding = Bytes | TokenizerFile
"""What makes the tokens of a text."""


def encoding(tokenizer: Path | None) -> Encoding:
    return Bytes() if tokenizer is None else TokenizerFile(tokenizer)


def sizes_of(text: str, offsets: Sequence[tuple[int, int]]) -> Int[Tensor, " N"]:
    """The bytes of tokens that begin and end at these characters. A token begins where those before it end,
    so that characters which no token names belong to the next one, and none counts twice."""
    characters = torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32)
    length = 1 + sum((characters >= first).int() for first in (0x80, 0x800, 0x10000))
    bounds = torch.nn.functional.pad(length.cumsum(0), (1, 0))
    ends = torch.tensor(offsets, dtype=torch.int64).view(-1, 2)[:, 1].cummax(0).values
    ends[-1] = len(text)
    return bounds[ends].diff(prepend=torch.zeros(1, dtype=torch.int64)).int()


def _decoded(content: UInt8[Tensor, " N"], name: str) -> str:
    try:
        return content.numpy().tobytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 (byte {error.start:,}), which a tokenizer reads. Convert it, or leave out "
            "--tokenizer: bytes need no encoding."
        ) from None


def _stretches(text: str) -> Iterator[str]:
    """The text in parts of at most ``AT_ONCE`` characters, which end with a line where there is one."""
    start = 0
    while start < len(text):
        end = start + AT_ONCE
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
