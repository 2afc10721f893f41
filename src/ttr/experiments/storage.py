"""Files that survive a kill at any moment: written to a temporary name and renamed, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ttr.experiments.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows, where two runs may compute the same cell twice
    fcntl = None


def make_folder(folder: Path) -> None:
    """The folder, created with its parents if missing.

    Raises:
        UserError: if it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written ({error.strerror}). Choose another with --out."
        ) from None


def write(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically, unless the file already holds it. Several processes may do so
    concurrently.

    Raises:
        UserError: if the file cannot be written; its old content is kept.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")  # unique to this call
    try:
        if path.exists() and path.read_bytes() == content:
            return
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}). Free some space there and repeat the command; "
            "finished runs are kept."
        ) from None


@contextlib.contextmanager
def locked(path: Path, block: bool) -> Iterator[bool]:
    """Whether this process is the only one at a file; a lock ends with its process, however that ends."""
    if fcntl is None:
        yield True
        return
    (path.parent / "locks").mkdir(exist_ok=True)
    with open(path.parent / "locks" / path.stem, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def to_json(value: Any) -> bytes:
    """Indented JSON, the same bytes for the same value; NaN is refused.

    A byte of a file name that is not UTF-8 becomes an escape that JSON and ``from_json`` accept."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(
        errors="backslashreplace"
    )


def from_json(content: bytes | str) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is not JSON, or nested deeper than any file of ttr.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError(
            "This JSON is nested too deeply to be read. Check the program that wrote it."
        ) from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Named tensors and JSON-ready facts in one safetensors file with a checksum."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts, sort_keys=True)
    write(
        path, save(tensors, metadata={"ttr": json.dumps({"facts": text, "sha256": _digest(tensors, text)})})
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that ``save_tensors`` wrote.

    Raises:
        UserError: naming the file, if it is truncated, altered, or another kind of file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    broken = UserError(
        f"{path} is damaged or was not written by ttr. Delete it to train that memory again; "
        "the others are kept."
    )
    try:
        content = path.read_bytes()
        tensors = load(content)
        header = from_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["ttr"]
        header = from_json(header)
        facts = from_json(header["facts"])
        intact = header["sha256"] == _digest(tensors, header["facts"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        raise broken from None
    if not intact:
        raise broken
    return tensors, facts


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
