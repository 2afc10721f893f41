"""The generated pages are current, and the README's example runs."""

import re
from pathlib import Path

import pytest

from ttr import rooms
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
    assert "passed" in capsys.readouterr().out


def test_the_readme_links_to_addresses_alone():
    """A package index shows it without the other files of the repository."""
    targets = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert targets and all(target.startswith("https://") for target in targets)


def test_the_picture_shows_every_import_and_no_other():
    floor = {room: number for number, floor in enumerate(rooms.storeys()) for room in floor}
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", rooms.picture(), flags=re.MULTILINE))
    assert set(floor) == set(rooms.arrows()) and drawn
    for room, others in rooms.arrows().items():
        assert all(floor[other] < floor[room] for other in others)
        assert others <= rooms.reached(room) == _reached(room.replace(".", "_"), drawn)


def _reached(room, drawn):
    below = {to for at, to in drawn if at == room}
    names = {name.replace(".", "_"): name for name in rooms.arrows()}
    return {names[each] for each in below}.union(*(_reached(each, drawn) for each in below))


@pytest.mark.parametrize("room", rooms.arrows())
def test_every_room_says_what_it_is_for(room):
    assert room.startswith("_") or rooms.meaning(room)


@pytest.mark.parametrize(
    "named",
    sorted(set(re.findall(r"(test_\w+\.py)::(test_\w+)", (ROOT / "docs" / "transformers.md").read_text()))),
)
def test_what_is_said_of_transformers_is_tested(named):
    file, name = named
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()
