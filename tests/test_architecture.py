"""The source tree follows the architecture: import order, one class per file of an axis, families of parts,
small catalogue entries, no branch on a name, one table of tolerances."""

import ast
import re
from pathlib import Path

import pytest

import ttr
from ttr import registry
from ttr.laws.tolerances import HALF
from ttr.rooms import imports, room_of

PACKAGE = Path(ttr.__file__).parent
ROOT = Path(__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
AXES = (
    "weights",
    "functions",
    "functions/features",
    "solvers",
)

STOREYS = (
    {"_version", "registry", "torch_internals", "decay", "controls", "diagnostics", "matmul", "recording"},
    {"component", "values", "state_tensors"},
    {"inputs", "slots", "feature_map"},
    {"forms"},
    {"axes"},
    {"problem"},
    {"weights", "functions", "solvers", "segments"},
    {"state"},
    {"prepare", "memorize"},
    {"engines", "retrieve", "initial", "one_token"},
    {"operators", "oracle", "recorded_step", "packed"},
    {"dispatch"},
    {"latex", "layer.parts"},
    {"distributed"},
    {"route", "layer", "explanation"},
    {"explain"},
    {"catalogue"},
    {"laws", "combinations"},
    {"nn"},
)
"""A room may import those below it in this list, and itself. Models, integrations, tasks, experiments,
doctor and cli are above all and may import anything."""


def room(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    at = next((n for n, rooms in enumerate(STOREYS) if room(path) in rooms), None)
    if at is not None:
        allowed = set().union(*STOREYS[:at]) | {room(path)}
        assert imports(path) <= allowed, f"{path.name} must not import {sorted(imports(path) - allowed)}"


def test_the_import_graph_has_no_circle():
    """Imports within functions and those for type checkers count too."""
    files = {".".join(("ttr", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    arrows = {}
    for name, path in modules.items():
        arrows[name] = {
            found if (found := f"{node.module}.{alias.name}") in modules else node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ttr"
            for alias in node.names
        } - {name, "ttr"}
    while leaves := [name for name, found in arrows.items() if not found & set(arrows)]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"imported in a circle: {sorted(arrows)}"


def test_engines_share_nothing_with_the_definition():
    reached, todo = set(), ["engines"]
    while todo:
        name = todo.pop()
        reached.add(name)
        files = [path for path in FILES if room(path) == name]
        todo += [other for path in files for other in imports(path) if other not in reached]
    assert not reached & {"oracle", "memorize", "retrieve", "laws"}


def test_importing_ttr_needs_torch_and_jaxtyping_alone():
    allowed = {"torch", "jaxtyping", "ttr", "__future__"}
    heavy = {"models", "integrations", "tasks", "experiments", "cli", "doctor"}
    standard = __import__("sys").stdlib_module_names
    for path in FILES:
        if room(path) in heavy:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert {n.split(".")[0] for n in names} <= allowed | standard, f"{path} imports {names}"


@pytest.mark.parametrize("folder", AXES)
def test_one_public_class_per_axis_file(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        if path.name.startswith("_"):
            continue
        classes = public_classes(ast.parse(path.read_text()))
        assert len(classes) == 1, f"{path} holds {classes}"
        assert path.stem == snake_case(classes[0]), f"{path} should be named after {classes[0]}"


@pytest.mark.parametrize("folder", ["layer/qkv", "layer/gates", "layer/output"])
def test_a_file_of_parts_holds_a_family(folder):
    """Several classes of one kind, with a docstring about what they have in common; a file with a single
    class is named after it."""
    for path in (PACKAGE / folder).glob("*.py"):
        tree = ast.parse(path.read_text())
        classes = public_classes(tree)
        bases = {base.id for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases}
        if path.stem == "__init__":
            assert not classes
        elif len(classes) == 1:
            assert path.stem == snake_case(classes[0]), f"{path} should be named after {classes[0]}"
        else:
            assert ast.get_docstring(tree), f"{path} does not say what {', '.join(classes)} have in common"
        assert len({base for base in bases if not base.startswith("_")}) <= 1, f"{path} mixes {sorted(bases)}"


def public_classes(tree: ast.Module) -> list[str]:
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return [name for name in classes if not name.startswith("_")]


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 460
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 71, (
                f"{path.name}: {node.name} has {node.end_lineno - node.lineno} lines"
            )
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno} catches everything"


def test_catalogue_entries_are_short():
    trees = [ast.parse(path.read_text()) for path in (PACKAGE / "catalogue").glob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    entries = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Architecture"]
    assert len(entries) == len(ttr.catalogue)
    for entry in entries:
        assert entry.end_lineno - entry.lineno + 1 < 23, (
            f"the entry at line {entry.lineno} has {entry.end_lineno - entry.lineno + 1} lines"
        )


def test_no_name_decides_anything():
    """No code compares the name of a catalogue entry or of a class, or calls isinstance with a member of an
    axis."""
    names = set(ttr.catalogue) | {
        cls.__name__
        for kind in ("weights", "feature", "function", "solver")
        for cls in registry.members(kind)
    }
    for path in FILES:
        if room(path) in ("catalogue", "experiments"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {
                    c.value
                    for c in ast.walk(node)
                    if isinstance(c, ast.Constant) and isinstance(c.value, str)
                }
                asked = constants | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                assert not asked & names, f"{path.name}:{node.lineno} compares with {asked & names}"
            if isinstance(node, ast.MatchClass):
                assert ast.unparse(node.cls).split(".")[-1] not in names, (
                    f"{path.name}: matches {ast.unparse(node.cls)}"
                )
            if isinstance(node, ast.Dict):
                keys = {
                    key.value
                    for key in node.keys
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
                assert not keys & names, f"{path.name}:{node.lineno} chooses by {keys & names}"
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("isinstance", "issubclass")
            ):
                asked = {
                    n.id if isinstance(n, ast.Name) else n.attr
                    for n in ast.walk(node.args[1])
                    if isinstance(n, ast.Name | ast.Attribute)
                }
                assert not asked & names, f"{path.name}:{node.lineno} asks for {asked & names}"


def test_tolerances_stand_in_one_table():
    """No test has a tolerance of its own: no small literal and no keyword atol or rtol."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg not in ("atol", "rtol", "rel_tol", "abs_tol"), (
                    f"{path}:{node.value.lineno} brings its own tolerance"
                )
            if isinstance(node, ast.Compare):
                small = [
                    c.value
                    for c in ast.walk(node)
                    if isinstance(c, ast.Constant) and isinstance(c.value, float) and 0 < c.value < HALF
                ]
                assert not small, f"{path}:{node.lineno} compares with {small}; use ttr.laws.tolerances"


def test_unsafe_loading_is_not_used():
    for path in FILES:
        text = path.read_text()
        assert not re.search(
            r"\bpickle\b|torch\.load\(|trust_remote_code|eval\(", text.replace(".eval()", "")
        ), path
