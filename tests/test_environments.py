"""ttr in the environments people have: torch and jaxtyping alone, and transformers beside flash-linear-attention without a GPU."""

import importlib.metadata
import os
import subprocess
import sys
import textwrap
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
    model = TTRForCausalLM(TTRConfig(vocab_size=16, hidden_size=16, num_hidden_layers=4, num_heads=2, intermediate_size=16, layers=layers))
    tokens = torch.randint(16, (2, 7))
    model(tokens, labels=tokens).loss.backward()
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape == (2, 10)
""")

def python(command: list[str], code: str, path: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ({"PYTHONPATH": str(path)} if path else {})
    result = subprocess.run([*command, "-c", code], capture_output=True, text=True, timeout=900, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr


def only(folder: Path, *roots: str) -> Path:
    """A folder of links to ttr, the named packages and what they require, to be the whole of a Python's packages."""
    (folder / "ttr").symlink_to(Path(ttr.__file__).parent)
    todo, done = list(roots), set()
    while todo:
        distribution = importlib.metadata.distribution(todo.pop())
        if distribution.name in done:
            continue
        done.add(distribution.name)
        for name in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / name).exists():
                (folder / name).symlink_to(distribution.locate_file(name))
        requirements = [Requirement(text) for text in distribution.requires or ()]
        todo += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return folder


def fresh(folder: Path, *packages: str) -> Path:
    """A new environment with these packages at the pinned versions; its Python."""
    venv.create(folder, with_pip=True)
    executable = folder / "bin" / "python"
    command = [str(executable), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "torch", *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return executable


def test_with_torch_and_jaxtyping_alone(tmp_path):
    python([sys.executable, "-S"], USE, only(tmp_path, "torch", "jaxtyping"))


def test_the_command_line_without_the_models(tmp_path):
    code = "import sys; from ttr.cli import app; sys.argv[1:] = {}; app(standalone_mode=False)"
    folder = only(tmp_path, "torch", "jaxtyping", "typer", "rich", "matplotlib")
    for arguments in (["list"], ["explain", "mesanet"]):
        python([sys.executable, "-S"], code.format(arguments), folder)


@pytest.mark.full
def test_fresh_environment_with_torch_and_jaxtyping(tmp_path):
    python([str(fresh(tmp_path / "bare", "."))], USE)


@pytest.mark.full
def test_beside_flash_linear_attention_without_a_gpu(tmp_path):
    python([str(fresh(tmp_path / "crowded", ".[hf]", "flash-linear-attention==0.6.0", "triton"))], MODEL)
