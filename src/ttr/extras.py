"""The optional packages, by the extra of pyproject.toml that installs them."""

from __future__ import annotations

EXTRAS = {
    "hf": ("transformers", "accelerate", "safetensors", "tokenizers"),
    "cli": ("typer", "rich", "matplotlib", "latex2mathml"),
    "ray": ("ray",),
    "train": ("datasets",),
}


def remedy(error: ModuleNotFoundError) -> str | None:
    """Which extra installs the package that is missing, as a sentence; None if no extra does."""
    package = error.name
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"This command needs {package}: pip install 'test-time-regression[{extra}]' installs it."
    return None
