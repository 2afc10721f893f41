"""ttr in the environments people have: torch and jaxtyping alone, and transformers beside flash-linear-attention without a GPU."""

import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

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

BLOCK = textwrap.dedent("""
    import sys
    class Alone:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {allowed_out}:
                raise ImportError(name + " is not installed here")
    sys.meta_path.insert(0, Alone())
""")

OPTIONAL = {"transformers", "tokenizers", "datasets", "accelerate", "safetensors", "typer", "rich", "matplotlib", "pandas", "pyarrow",
            "beartype", "pytest", "einops", "fla", "triton", "ray", "scipy"}


def python(executable: Path | str, code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([str(executable), "-c", code], capture_output=True, text=True, timeout=900, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr


def fresh(folder: Path, *packages: str) -> Path:
    """A new environment with these packages at the pinned versions; its Python."""
    venv.create(folder, with_pip=True)
    executable = folder / "bin" / "python"
    command = [str(executable), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "torch", *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return executable


def test_without_any_optional_package():
    python(sys.executable, BLOCK.replace("{allowed_out}", repr(OPTIONAL)) + USE)


@pytest.mark.parametrize("module", ["ttr", "ttr.laws.verify", "ttr.doctor", "ttr.documentation"])
def test_what_loads_without_optional_packages(module):
    python(sys.executable, BLOCK.replace("{allowed_out}", repr(OPTIONAL)) + f"import {module}")


@pytest.mark.parametrize("extra, command", [({"transformers", "tokenizers", "accelerate", "datasets"}, ["explain", "mesanet"]),
                                            ({"transformers", "tokenizers", "accelerate", "datasets"}, ["list"])])
def test_the_command_line_without_the_models(extra, command):
    use = f"import sys; sys.argv[1:] = {command!r}\nfrom ttr.cli import app; app(standalone_mode=False)"
    python(sys.executable, BLOCK.replace("{allowed_out}", repr(extra)) + use)


@pytest.mark.full
def test_fresh_environment_with_torch_and_jaxtyping(tmp_path):
    python(fresh(tmp_path / "bare", "."), USE)


@pytest.mark.full
def test_beside_flash_linear_attention_without_a_gpu(tmp_path):
    python(fresh(tmp_path / "crowded", ".[hf]", "flash-linear-attention==0.6.0", "triton"), MODEL)
