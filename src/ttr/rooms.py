"""The modules of the package ("rooms"), a folder or a file each, and their imports, read from the sources."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parent
WITH_A_MEMORY = ("architecture", "project", "planned_step", "heads", "mixer")
"""The files of ``layer`` that import the memory; the others, parts of a layer, do not."""


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module, such as ("layer", "gates", "decays")."""
    return "layer.parts" if parts[0] == "layer" and parts[-1] not in WITH_A_MEMORY else parts[0]


@functools.cache
def arrows() -> Mapping[str, frozenset[str]]:
    """Every room and the rooms that its files import, anywhere in the file."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            found.setdefault(room_of(parts), set()).update(imports(path))
    return {room: frozenset(others & set(found) - {room}) for room, others in found.items()}


def imports(path: Path) -> set[str]:
    """The rooms of ttr that a file imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "ttr":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttr."):
            found.add(room_of(tuple(node.module.split(".")[1:])))
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("ttr.")]
            found |= {room_of(tuple(name.split(".")[1:])) for name in names}
    return found


def storeys() -> tuple[tuple[str, ...], ...]:
    """The rooms by storey, from the lowest: each is one storey above the highest that it imports.

    Raises:
        ValueError: if rooms import each other.
    """
    below: set[str] = set()
    found: list[tuple[str, ...]] = []
    while len(below) < len(arrows()):
        ready = tuple(sorted(r for r, others in arrows().items() if r not in below and others <= below))
        if not ready:
            circle = ", ".join(sorted(set(arrows()) - below))
            raise ValueError(f"Circular import: {circle}. Move what they share to a lower module.")
        found.append(ready)
        below.update(ready)
    return tuple(found)


def reached(room: str) -> frozenset[str]:
    """All rooms that a room imports, directly or indirectly."""
    return frozenset().union(arrows()[room], *map(reached, arrows()[room]))


def direct(room: str) -> tuple[str, ...]:
    """The rooms that a room imports directly and not through another room."""
    by_others = frozenset().union(*map(reached, arrows()[room]))
    return tuple(sorted(arrows()[room] - by_others))


def meaning(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = PACKAGE / room if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"
    path = PACKAGE / "layer" / "part.py" if room == "layer.parts" else path
    path = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].replace("``", "`").split())


def picture() -> str:
    """The rooms as a mermaid graph, one row per storey, without the imports that others imply."""
    lines = ["graph BT"]
    for number, rooms in enumerate(storeys()):
        lines.append(f'  subgraph s{number}["storey {number}"]')
        lines += [f"    {_node(room)}" for room in rooms]
        lines.append("  end")
    lines += [
        f"  {room.replace('.', '_')} --> {below.replace('.', '_')}"
        for rooms in storeys()
        for room in rooms
        for below in direct(room)
    ]
    return "\n".join(lines)


def _node(room: str) -> str:
    """A folder as a rectangle, a file as a rounded box."""
    name = room.replace(".", "_")
    return f'{name}["{room}/"]' if (PACKAGE / room).is_dir() else f'{name}("{room}")'
