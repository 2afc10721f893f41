"""ttr in common environments: with only torch and jaxtyping, with transformers beside flash-linear-attention
without a GPU, and without the extra of a command; what its wheel and its sdist hold."""

import functools
import importlib.metadata
import os
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import venv
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.requirements import Requirement

import ttr
from ttr.__main__ import main
from ttr.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

USE = textwrap.dedent("""
    import torch, ttr
    from ttr.functions.linear import Linear
    from ttr.solvers.delta_rule import DeltaRule
    from ttr.weights.geometric import Geometric
    memory = ttr.Problem(Geometric(), Linear(), DeltaRule())
    q, k, v = torch.randn(3, 1, 9, 2, 4).unbind()
    y = ttr.regress(memory, q, k, v / 4, log_decay=-torch.rand(1, 9, 2), step_size=torch.rand(1, 9, 2))
    assert y.shape == (1, 9, 2, 4)
    assert ttr.verify("gated-deltanet", slow=False)
    assert ttr.nn.Mixer(8, ttr.catalogue["mesanet"], heads=2)(torch.randn(1, 5, 8)).shape == (1, 5, 8)
    assert "gated" in ttr.catalogue["gated-deltanet"].source.lower()
""")

MODEL = textwrap.dedent("""
    import torch, transformers, fla
    from ttr.models import TTRConfig, TTRForCausalLM
    assert not torch.cuda.is_available()
    layers = ["gated-deltanet", "kda", "mamba2", "softmax-attention"]
    sizes = dict(vocab_size=16, hidden_size=16, num_hidden_layers=4, num_heads=2, intermediate_size=16)
    model = TTRForCausalLM(TTRConfig(layers=layers, **sizes))
    tokens = torch.randint(16, (2, 7))
    model(tokens, labels=tokens).loss.backward()
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape == (2, 10)
""")


def python(command: list[str], code: str, path: Path | None = None, seconds: int = 900) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (
        {"PYTHONPATH": str(path)} if path else {}
    )
    result = subprocess.run(
        [*command, "-c", code], capture_output=True, text=True, timeout=seconds, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr


def only(folder: Path, *roots: str) -> Path:
    """A folder of links to ttr, the named packages and their requirements, as the only packages of a
    Python."""
    (folder / "ttr").symlink_to(Path(ttr.__file__).parent)
    todo, done = list(roots), set()
    while todo:
        distribution = importlib.metadata.distribution(todo.pop())
        if distribution.name in done:
            continue
        done.add(distribution.name)
        for name in {
            file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")
        }:
            if not (folder / name).exists():
                (folder / name).symlink_to(distribution.locate_file(name))
        requirements = [Requirement(text) for text in distribution.requires or ()]
        todo += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return folder


PINNED = ("-c", str(ROOT / "constraints.txt"))
"""pip options for the versions that the project is developed with."""


def oldest() -> list[str]:
    """Every package for which pyproject.toml sets a minimum version, at that version."""
    wanted = [
        *PROJECT["dependencies"],
        *(text for extra in ("hf", "cli", "test") for text in PROJECT["optional-dependencies"][extra]),
    ]
    return [text.replace(">=", "==") for text in wanted if ">=" in text]


def fresh(folder: Path, *packages: str) -> Path:
    """The Python of a new environment with these packages."""
    venv.create(folder, with_pip=True)
    executable = folder / "bin" / "python"
    run(executable, "-m", "pip", "install", "-q", *packages)
    return executable


def run(*command: object, **options: object) -> None:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=3600, **options)
    assert result.returncode == 0, result.stderr


def copied(folder: Path) -> Path:
    """A copy of the checkout without what was built there, for builds that do not disturb each other."""
    ignored = (".venv", ".git", "build", "_kernels.*", "*.egg-info", "__pycache__", ".parity", "runs")
    return shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*ignored))


def built(folder: Path, **environment: str) -> Path:
    """The wheel of the checkout."""
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, "."),
        cwd=copied(folder),
        env=os.environ | environment,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the checkout, built once by all test processes together."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with FileLock(folder / "wheel.lock"):
        return next((folder / "wheel").glob("*.whl"), None) or built(folder / "wheel")


def run_tests(executable: str, *arguments: str) -> None:
    command = [executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=3600,
        cwd=ROOT,
        env=os.environ | {"TTR_TEST_TYPES": "0"},
    )
    assert result.returncode == 0, result.stdout[-10_000:] + result.stderr


def test_with_torch_and_jaxtyping_alone(tmp_path):
    python([sys.executable, "-S"], USE, only(tmp_path, "torch", "jaxtyping"))


def test_the_command_line_without_the_models(tmp_path):
    code = "import sys; from ttr.cli import app; sys.argv[1:] = {}; app(standalone_mode=False)"
    folder = only(tmp_path, "torch", "jaxtyping", "typer", "rich", "matplotlib")
    for arguments in (["list"], ["explain", "mesanet"]):
        python([sys.executable, "-S"], code.format(arguments), folder)


@pytest.mark.parametrize(
    "command, present, missing, extra",
    [
        ("list", (), "typer", "cli"),
        ("compare", ("typer", "rich", "matplotlib"), "safetensors", "hf"),
        ("train", ("typer", "rich", "matplotlib"), "accelerate", "hf"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(tmp_path, command, present, missing, extra):
    result = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-m", "ttr", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(only(tmp_path, "torch", "jaxtyping", *present))},
    )
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        f"ttr: This command needs {missing}: pip install 'test-time-regression[{extra}]' installs it.\n",
    )


def test_a_missing_package_of_no_extra_is_an_error_of_the_program(monkeypatch):
    """Also a part that an installed package lacks."""

    def lacks(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in ("another", "transformers.another"):
        monkeypatch.setattr("ttr.cli.main", functools.partial(lacks, name))
        with pytest.raises(ModuleNotFoundError, match=name):
            main()


def test_the_program_and_the_extras_are_those_of_pyproject():
    assert pkgutil.resolve_name(PROJECT["scripts"]["ttr"]) is main
    for extra, packages in EXTRAS.items():
        requirements = map(Requirement, PROJECT["optional-dependencies"][extra])
        assert tuple(requirement.name for requirement in requirements) == packages


@pytest.mark.parametrize("module", ["ttr", "ttr.cli"])
def test_an_import_loads_nothing_slow(module):
    """Each of these takes a large part of a second, or seconds: they are imported where they are used."""
    slow = {"torch._dynamo", "torch._inductor", "sympy", "transformers", "datasets", "matplotlib", "pandas"}
    code = f"import sys, {module}; found = {slow} & set(sys.modules); assert not found, found"
    python([sys.executable], code, Path(ttr.__file__).parents[1])


@pytest.mark.full
def test_fresh_environment_with_torch_and_jaxtyping(tmp_path, wheel):
    python([str(fresh(tmp_path / "bare", str(wheel), *PINNED))], USE)


@pytest.mark.full
@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_installs_alone(tmp_path, wheel, extra):
    packages = [Requirement(text).name for text in PROJECT["optional-dependencies"][extra]]
    code = f"import importlib.metadata, ttr; [importlib.metadata.version(name) for name in {packages}]"
    executable = fresh(tmp_path / extra, f"{wheel}[{extra}]", *PINNED)
    python([str(executable)], code)
    run(executable, "-m", "pip", "check")


@pytest.mark.full
def test_beside_flash_linear_attention_without_a_gpu(tmp_path, wheel):
    packages = (f"{wheel}[hf]", "flash-linear-attention==0.6.0", "triton", *PINNED)
    python([str(fresh(tmp_path / "crowded", *packages))], MODEL)


@pytest.mark.full
@pytest.mark.parametrize("versions", ["oldest", "newest"])
def test_the_ends_of_the_promised_range_of_versions(versions, tmp_path, wheel):
    """The laws of every name and the models, with the least versions that pyproject.toml allows and with the
    newest that pip finds."""
    executable = str(
        fresh(
            tmp_path / versions,
            f"{wheel}[hf,cli,test]",
            *(oldest() if versions == "oldest" else ("--upgrade",)),
        )
    )
    python(
        [executable],
        "import sys; from ttr.cli import main; sys.argv[1:] = ['verify', '--all', '--quick']; main()",
        seconds=3600,
    )
    run_tests(executable, "tests/test_model.py", "tests/test_mixer.py", "tests/test_compare.py")


@pytest.mark.full
def test_the_wheel_says_whether_it_holds_the_library(tmp_path, wheel):
    if shutil.which("cc") and sys.platform.startswith("linux"):
        assert "-py3-none-linux" in wheel.name
    assert built(tmp_path, CC="/no/such/compiler").name.endswith("-py3-none-any.whl")


@pytest.mark.full
def test_the_sdist_holds_what_the_tests_read(tmp_path):
    executable, checkout = fresh(tmp_path / "tools", "setuptools>=77"), copied(tmp_path)
    run(executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {member.name.partition("/")[2] for member in file}
    files = (path for folder in ("docs", "src", "tests") for path in (checkout / folder).rglob("*"))
    read = {str(path.relative_to(checkout)) for path in files if path.is_file() and path.name[0] != "."}
    read |= {"Makefile", "README.md", "CONTRIBUTING.md", "constraints.txt", "pyproject.toml", "setup.py"}
    assert "tests/conftest.py" in read and read <= held, read - held


@pytest.mark.full
def test_cells_on_a_ray_cluster(tmp_path, wheel):
    executable = fresh(tmp_path / "ray", f"{wheel}[hf,cli,test,ray]", *PINNED)
    run_tests(str(executable), "--full", "tests/test_ray.py")


@pytest.mark.full
def test_curves_in_the_libraries_that_show_them(tmp_path, wheel):
    executable = fresh(tmp_path / "shown", f"{wheel}[hf,cli,test]", "tensorboard", "trackio", *PINNED)
    run_tests(str(executable), "tests/test_tracking.py")


@pytest.mark.full
def test_training_on_streams(tmp_path, wheel):
    executable = fresh(tmp_path / "streams", f"{wheel}[hf,cli,test,train]", "tensorboard", *PINNED)
    run_tests(str(executable), "--full", "tests/test_train.py")


@pytest.mark.full
def test_programs_that_know_nothing_of_ttr_open_a_folder(tmp_path, wheel):
    packages = ("lm-eval", "trl", "peft", "fastapi", "uvicorn", "openai")
    executable = fresh(tmp_path / "programs", f"{wheel}[hf,cli,test]", *packages, *PINNED)
    run_tests(str(executable), "--full", "tests/test_programs.py", "tests/test_lora.py")


@pytest.mark.full
def test_onnx_runtime_runs_what_is_exported(tmp_path, wheel):
    executable = fresh(tmp_path / "onnx", f"{wheel}[hf,cli,test]", "onnxscript", "onnxruntime", *PINNED)
    run_tests(str(executable), "--full", "tests/test_export.py", "-k", "onnx")
