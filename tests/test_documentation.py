"""The generated pages are current, and the README's example runs."""

import re
from pathlib import Path

import pytest

from ttr.documentation import PAGES

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES)
def test_page_is_current(page):
    assert (ROOT / "docs" / page).read_text() == PAGES[page](), "run `make docs`"


def test_every_cell_of_the_coverage_matrix_is_filled():
    rows = [
        line for line in (ROOT / "docs" / "coverage.md").read_text().splitlines() if line.startswith("| `")
    ]
    assert rows and all(
        re.fullmatch(r"runs|\[\d+\]", cell.strip()) for row in rows for cell in row.split("|")[2:-1]
    )


def test_readme_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "kept" in capsys.readouterr().out
