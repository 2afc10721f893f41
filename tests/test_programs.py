"""Command lines that know nothing of ttr open a saved folder by path (`make check`, in an environment with
them)."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.decoders import tiny
from tests.test_model_loading import words

PROGRAMS = ("lm_eval", "trl", "peft", "fastapi", "uvicorn", "openai")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not all(map(find_spec, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]
SCRIPTS = Path(sys.executable).parent
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data/questions.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

LAUNCHED = """
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM
accelerator, model = Accelerator(cpu=True), AutoModelForCausalLM.from_pretrained("model")
model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-3))
ids = torch.arange(9)[None]
accelerator.backward(model(ids, labels=ids).loss)
optimizer.step()
print("trained")
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a model, texts and a task."""
    tiny().float().save_pretrained(tmp_path / "model")
    tokenizer = words(tmp_path / "model")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    row = {"text": "w2 w3 w4", "choices": ["w5", "w6"], "answer": 0}
    (tmp_path / "data" / "questions.jsonl").write_text(16 * (json.dumps(row) + "\n"))
    (tmp_path / "tiny.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "launched.py").write_text(LAUNCHED)
    return tmp_path


def run(folder, *command):
    command = [str(SCRIPTS / command[0]), *command[1:]]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=OFFLINE, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_lm_eval(folder):
    arguments = "--model hf --model_args pretrained=model --tasks tiny --include_path . --device cpu"
    assert "|tiny|" in run(folder, "lm_eval", *arguments.split()).replace(" ", "")


def test_trl_sft_with_adapters(folder):
    arguments = "--model_name_or_path model --dataset_name data --dataset_train_split train --output_dir out"
    options = "--max_steps 2 --report_to none --use_cpu true --bf16 false --use_peft"
    modules = "--lora_target_modules q_proj k_proj v_proj o_proj"
    (folder / "data" / "questions.jsonl").rename(folder / "data" / "train.jsonl")
    run(folder, "trl", "sft", *f"{arguments} {options} {modules}".split())
    assert (folder / "out" / "adapter_model.safetensors").exists()


def test_accelerate_launch(folder):
    assert "trained" in run(folder, "accelerate", *"launch --cpu --num_processes 1 launched.py".split())


def test_transformers_serve(folder):
    command = [SCRIPTS / "transformers", "serve", "model", "--port", "8643", "--device", "cpu"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=OFFLINE, stdout=log, stderr=log)
    try:
        question = {"model": "model", "messages": [{"role": "user", "content": "w2 w3"}], "max_tokens": 3}
        request = urllib.request.Request(
            "http://localhost:8643/v1/chat/completions",
            json.dumps(question | {"stream": False}).encode(),
            {"Content-Type": "application/json"},
        )
        for _ in range(60):
            time.sleep(2)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    assert json.load(response)["usage"]["completion_tokens"] == 3
                break
            except urllib.error.URLError as error:
                assert not isinstance(error, urllib.error.HTTPError), (folder / "log").read_text()
        else:
            pytest.fail((folder / "log").read_text())
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
