"""ttr in common environments: with only torch and jaxtyping, and with transformers beside
flash-linear-attention without a GPU."""

import importlib.metadata
import os
import subprocess
import sys
import textwrap
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ttr

ROOT = Path(__file__).parents[1]

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


def python(command: list[str], code: str, path: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (
        {"PYTHONPATH": str(path)} if path else {}
    )
    result = subprocess.run(
        [*command, "-c", code], capture_output=True, text=True, timeout=900, env=environment
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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in ("hf", "cli", "test") for text in project["optional-dependencies"][extra]),
    ]
    return [text.replace(">=", "==") for text in wanted if ">=" in text]


def fresh(folder: Path, *packages: str) -> Path:
    """The Python of a new environment with these packages."""
    venv.create(folder, with_pip=True)
    executable = folder / "bin" / "python"
    command = [str(executable), "-m", "pip", "install", "-q", "torch", *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return executable


def run_tests(executable: str, *arguments: str) -> None:
    command = [executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=1800,
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


@pytest.mark.full
def test_fresh_environment_with_torch_and_jaxtyping(tmp_path):
    python([str(fresh(tmp_path / "bare", ".", *PINNED))], USE)


@pytest.mark.full
def test_beside_flash_linear_attention_without_a_gpu(tmp_path):
    python(
        [str(fresh(tmp_path / "crowded", ".[hf]", "flash-linear-attention==0.6.0", "triton", *PINNED))], MODEL
    )


@pytest.mark.full
@pytest.mark.parametrize("versions", ["oldest", "newest"])
def test_the_ends_of_the_promised_range_of_versions(versions, tmp_path):
    """The laws of every name and the models, with the least versions that pyproject.toml allows and with the
    newest that pip finds."""
    executable = str(
        fresh(tmp_path / versions, ".[hf,cli,test]", *(oldest() if versions == "oldest" else ("--upgrade",)))
    )
    python(
        [executable],
        "import sys; from ttr.cli import main; sys.argv[1:] = ['verify', '--all', '--quick']; main()",
    )
    run_tests(executable, "tests/test_model.py", "tests/test_mixer.py", "tests/test_compare.py")


@pytest.mark.full
def test_cells_on_a_ray_cluster(tmp_path):
    run_tests(str(fresh(tmp_path / "ray", ".[hf,cli,test,ray]", *PINNED)), "--full", "tests/test_ray.py")
