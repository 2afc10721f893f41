"""Original implementations, read from their files and run in float64.

Only the definitions asked for are taken out of a file, without their decorators, and run in a namespace of
the libraries that such files import. So nothing of the packages themselves is imported: neither
flash-linear-attention, which wants a GPU compiler, nor transformers, whose decorators may put other kernels
in place of the code that stands there.

The originals cast to float32. To compare in float64 the text of each definition is raised: ``.float()``
becomes ``.double()``, ``torch.float`` and ``torch.float32`` become ``torch.float64``, and tensors made
without a dtype follow torch's default, which ``in_float64`` sets. Nothing else of the text is changed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FLA = "0.6.0"


def fla(path: str, *names: str, **given: object) -> SimpleNamespace:
    """Definitions of a file of flash-linear-attention, e.g. ``fla("ops/gla/naive.py",
    "naive_recurrent_gla")``; ``given`` are names that they use besides those of libraries."""
    return _extract(parity_folder() / "fla" / path, names, given)


def transformers(path: str, *names: str) -> SimpleNamespace:
    """Definitions of a file of transformers, e.g. ``transformers("models/mamba2/modeling_mamba2.py",
    "segment_sum")``."""
    package = importlib.util.find_spec("transformers")
    if package is None:
        pytest.fail(
            "transformers is not installed here. Run `make setup`, which installs what the tests "
            "compare with."
        )
    return _extract(Path(package.submodule_search_locations[0]) / path, names)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Tensors made without a dtype are float64 inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@functools.cache
def parity_folder() -> Path:
    """The folder of flash-linear-attention and einops, which are not in the environment."""
    folders = [Path(__file__).parents[2] / ".parity", Path(os.environ.get("TTR_PARITY", "") or ".parity")]
    for folder in folders:
        found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions(path=[str(folder)])}
        if found.get("fla-core") == FLA and "einops" in found:
            return folder
    pytest.fail(
        f"The originals (fla-core {FLA} and einops) are not in {folders[0]} nor in the folder named "
        "by TTR_PARITY. Run `make setup`."
    )


@functools.cache
def _libraries() -> dict[str, object]:
    """The libraries that the originals' files import."""
    folder = str(parity_folder())
    sys.path.insert(0, folder)
    try:
        einops = importlib.import_module("einops")
    finally:
        sys.path.remove(folder)
    return {
        "torch": torch,
        "np": importlib.import_module("numpy"),
        "nn": torch.nn,
        "F": torch.nn.functional,
        "math": math,
        "rearrange": einops.rearrange,
        "repeat": einops.repeat,
        "is_torchdynamo_exporting": lambda: False,
        "is_torchdynamo_compiling": lambda: False,
        "is_mambapy_available": lambda: False,
        "is_torch_greater_or_equal": lambda version: True,
    }


def _extract(file: Path, names: tuple[str, ...], given: Mapping[str, object] = {}) -> SimpleNamespace:
    """The named functions, classes and constants of a file, without decorators and with float32 raised to
    float64."""
    tree = ast.parse(file.read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    # those that stand under an if as well; outer before inner
    definitions = {node.name: node for node in reversed(nodes)}
    definitions |= {
        node.targets[0].id: node
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    missing = set(names) - set(definitions)
    if missing:
        pytest.fail(f"{file} has no {', '.join(sorted(missing))}. Run `make setup` for the pinned version.")
    space = _libraries() | given
    for name in names:
        definitions[name].decorator_list = []
        text = re.sub(r"\.float\(\)", ".double()", ast.unparse(definitions[name]))
        exec(
            compile(
                "from __future__ import annotations\n"
                + re.sub(r"torch\.float(32)?\b", "torch.float64", text),
                str(file),
                "exec",
            ),
            space,
        )
    return SimpleNamespace(**{name: space[name] for name in names})
