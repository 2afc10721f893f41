"""Loading as users do: in shards, in another dtype, with weights offloaded to memory and to disk, by path in
a program that imports transformers alone.

One decoder holds every causal memory of the catalogue, a layer each.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

import ttr
from tests.decoders import ENTRIES, VOCABULARY, assert_close, tiny, tokens
from ttr.laws.tolerances import FLOAT32
from ttr.models import arguments

ON_DISK = {
    "model.embed_tokens": "cpu",
    **{f"model.layers.{layer}": ("disk", "cpu")[layer % 4 == 3] for layer in range(len(ENTRIES))},
    "model.norm": "disk",
    "lm_head": "cpu",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The decoder of all memories, and a folder that holds it in shards."""
    torch.manual_seed(0)
    model, folder = tiny(ENTRIES, initializer_range=0.02), tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return model, folder


def logits(model):
    with torch.no_grad():
        return model(torch.arange(9)[None] % VOCABULARY).logits


def generated(model):
    """The logits of the prompt's next token and of three more, from a cache."""
    made = model.generate(
        torch.arange(9)[None] % VOCABULARY,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(made.logits)


@pytest.mark.parametrize("device_map", [None, "cpu", "auto", ON_DISK], ids=["none", "cpu", "auto", "disk"])
def test_shards_come_back_to_the_last_bit(device_map, saved, tmp_path):
    model, folder = saved
    again, report = AutoModelForCausalLM.from_pretrained(
        folder, device_map=device_map, offload_folder=tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    kept = {name for name, tensor in again.named_parameters() if tensor.is_meta}
    assert bool(kept) == (device_map is ON_DISK)
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert name in kept or torch.equal(state[name], tensor), name
    assert_close(logits(again), logits(model))


def test_another_dtype_rounds_every_tensor_once(saved):
    model, folder = saved
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor.bfloat16()), name


def test_each_missing_tensor_is_reported_and_drawn(saved, tmp_path):
    model, _ = saved
    state = model.state_dict()
    lacking = set(list(state)[2::3])
    model.save_pretrained(tmp_path, state_dict={name: x for name, x in state.items() if name not in lacking})
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == lacking and not report["unexpected_keys"]
    for name, tensor in again.state_dict().items():
        assert tensor.isfinite().all() and (name in lacking or torch.equal(tensor, state[name])), name


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_offloaded_weights_are_loaded_for_every_call(where, saved, tmp_path):
    model, folder = saved
    offloaded = offload(AutoModelForCausalLM.from_pretrained(folder), where, tmp_path)
    assert_close(logits(offloaded), logits(model))
    assert all(tensor.is_meta for tensor in offloaded.parameters())


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_steps_that_are_planned_already_load_offloaded_weights(where, tmp_path):
    model = tiny(("gated-deltanet", "rwkv7", "ttt-linear"))
    wanted = generated(model)
    assert_close(generated(offload(model, where, tmp_path)), wanted)


def offload(model, where, folder):
    """The model, its weights in memory or on disk until a module is called."""
    if where == "memory":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, folder, execution_device=torch.device("cpu"))
    assert all(tensor.is_meta for tensor in model.parameters())
    return model


def words(folder):
    """A tokenizer of one word per token, saved in a folder."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{token}": token for token in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    made.save_pretrained(folder)
    return made


def test_a_program_that_imports_transformers_alone_opens_a_folder(tmp_path):
    """Through the entry point of the installed package: after a change of pyproject.toml install it again."""
    model = tiny(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    words(tmp_path)
    code = f"""
        import sys, torch
        assert not {{"ttr", "transformers"}} & set(sys.modules)
        import transformers
        from transformers import AutoConfig, pipeline
        assert "ttr" not in sys.modules and "ttr" in transformers.CONFIG_MAPPING
        program = pipeline("text-generation", {str(tmp_path)!r})
        import ttr.models
        assert type(program.model) is ttr.models.TTRForCausalLM is sys.modules["transformers"].TTRForCausalLM
        assert transformers.TTRForCausalLM is ttr.models.TTRForCausalLM
        import transformers.models.ttr
        assert sys.modules["transformers.models.ttr"] is ttr.models
        assert ttr.models.__spec__.name == "ttr.models"
        print(program("w2 w3", max_new_tokens=3, do_sample=False)[0]["generated_text"])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=os.environ
    )
    assert run.returncode == 0, run.stderr
    ids = model.generate(torch.tensor([[2, 3]]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert run.stdout.replace(" ", "").strip() == "".join(f"w{token}" for token in ids[0].tolist())


@pytest.mark.full
def test_what_is_left_of_a_deleted_package_disturbs_nobody(tmp_path):
    """The folder of ttr is gone; its entry point and the module of that are still there."""
    package = Path(ttr.__file__).parent
    if (package.parent / "torch").exists():
        pytest.skip("ttr lies among the packages that the test needs")
    shutil.copy(package.parent / "ttr_autoload.py", tmp_path)
    (tmp_path / "ttr" / "__pycache__").mkdir(parents=True)
    about = tmp_path / "test_time_regression-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: test-time-regression\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[torch.backends]\nttr = ttr_autoload:install\n")
    others = [path for path in sys.path if not (Path(path) / "ttr_autoload.py").exists()]
    code = f"""
        import sys
        sys.path[:] = {[str(tmp_path), *others]}
        import torch
        assert "ttr_autoload" in sys.modules
        from transformers.models.auto import configuration_auto
        assert "ttr" not in configuration_auto.CONFIG_MAPPING_NAMES
        try:
            import transformers.models.ttr
        except ModuleNotFoundError as error:
            assert error.name == "transformers.models.ttr"
    """
    isolated = [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]
    run = subprocess.run(isolated, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_generate_takes_a_tokenizer(tmp_path):
    """`transformers serve` always passes it."""
    model, tokenizer = tiny(dtype=torch.float32), words(tmp_path)
    wanted = model.generate(torch.tensor([[2, 3]]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    ids = model.generate(
        torch.tensor([[2, 3]]), max_new_tokens=3, do_sample=False, pad_token_id=0, tokenizer=tokenizer
    )
    assert torch.equal(ids, wanted)


def test_label_smoothing_of_the_trainer_shifts_the_labels(tmp_path):
    """The Trainer smooths labels itself, and shifts them for classes whose name it finds among causal
    models."""
    model, ids = tiny(dtype=torch.float32), tokens(2, 7)
    arguments = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to=[])
    loss = Trainer(model=model, args=arguments).compute_loss(model, {"input_ids": ids, "labels": ids})
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), label_smoothing=0.1)
    assert_close(loss, wanted, FLOAT32)


def test_packed_sequences_whose_first_tokens_would_be_smoothed_are_told(tmp_path, monkeypatch):
    """The Trainer that smooths labels keeps them from the model; with -100 at first tokens it is right."""
    told = []
    monkeypatch.setattr(arguments.logger, "warning_once", told.append)
    model, ids = tiny(dtype=torch.float32).train(), tokens(2, 5)
    smoothed = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to=[])
    labels = torch.cat([torch.full_like(ids[:, :1], -100), ids[:, 1:]], 1)
    packed = {"input_ids": ids.view(1, 10), "position_ids": torch.arange(5).repeat(2)[None]}
    loss_of = Trainer(model=model, args=smoothed).compute_loss
    wanted = loss_of(model, {"input_ids": ids, "labels": labels})
    assert not told
    assert_close(loss_of(model, packed | {"labels": labels.view(1, 10)}), wanted, FLOAT32)
    (sentence,) = told
    assert "unless its label is -100" in sentence
    model(**packed, labels=ids.view(1, 10))
    model.eval()(**packed)
    assert len(told) == 1
