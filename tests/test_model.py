"""The Hugging Face decoder: for all memories it saves, loads, continues, generates, pads and trains like any
other."""

import copy
import itertools
import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    DynamicCache,
    Trainer,
    TrainingArguments,
)

import ttr
from tests.decoders import ENTRIES, HYBRID, VOCABULARY, assert_close, padded, tiny, tokens
from ttr.laws.tolerances import FLOAT32
from ttr.models import TTRCache, TTRConfig, TTRForCausalLM, TTRModel
from ttr.models.modeling import CACHE


def rows_of(batch, side):
    """Sequences of tokens, of different lengths if there is a side to pad on."""
    lengths = [6] * batch if side == "none" else [4, 7, 1][:batch]
    return [tokens(length) for length in lengths]


# ---------------------------------------------------------------------------------------------- configuration
def test_config_survives_json():
    layers = ["gated-deltanet", ttr.catalogue["mesanet"], ttr.catalogue["softmax-attention"].problem]
    config = TTRConfig(num_hidden_layers=3, layers=layers, key_size=8, eos_token_id=2)
    again = TTRConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert again.to_dict() == config.to_dict()
    assert again.memories() == config.memories() == [ttr.catalogue["gated-deltanet"], *layers[1:]]


def test_one_memory_serves_all_layers(tmp_path):
    config = TTRConfig(num_hidden_layers=3, layers="mesanet")
    config.save_pretrained(tmp_path)
    assert config.layers == ["mesanet"] * 3
    for again in (TTRConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(again) is TTRConfig
        assert again.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["gated-deltanet", "mesanett"], "Layer 1: .* 'mesanett'.*Did you mean mesanet"),
        ("?", "Layer 0: There is no memory called"),
        (["mesanet"], "names 1 memories, but num_hidden_layers is 2"),
        (["mesanet", 5], "layer 1 is 5. Give a name"),
        ([{"weights": {}}, "mesanet"], "function, solver missing"),
    ],
)
def test_wrong_layers_are_a_sentence(layers, words):
    with pytest.raises(ValueError, match=words):
        TTRConfig(num_hidden_layers=2, layers=layers)


@pytest.mark.parametrize("name", sorted(set(ttr.catalogue) - set(ENTRIES)))
def test_a_memory_that_reads_ahead_is_no_language_model(name):
    with pytest.raises(
        ValueError, match=("layer 1 every token reads the ones after it.*Use a causal memory, or TTRModel")
    ):
        tiny(("gated-deltanet", name))
    encoder = TTRModel(
        TTRConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_heads=2, layers=name)
    ).eval()
    rows = [tokens(3), tokens(5)]
    ids, mask = padded(rows, "left")
    hidden = encoder(ids, attention_mask=mask, use_cache=False).last_hidden_state
    for i, row in enumerate(rows):
        assert_close(
            hidden[i, -len(row) :], encoder(row[None], use_cache=False).last_hidden_state[0], FLOAT32
        )
    with pytest.raises(ValueError, match="use_cache=False"):
        encoder(ids, use_cache=True)


def test_auto_classes_know_the_model():
    config = TTRConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_heads=2)
    assert type(AutoModel.from_config(config)) is TTRModel
    assert type(AutoModelForCausalLM.from_config(config)) is TTRForCausalLM


# --------------------------------------------------------------------------------------- save, load, continue
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}])
def test_a_reloaded_model_is_the_same_to_the_last_bit(tmp_path, settings):
    model, ids = tiny(dtype=torch.float32, **settings), tokens(2, 9)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


def assert_drawn_by_a_mixer(mixer, config, layer, names):
    """The tensors of a mixer are like those that it draws: equal where deterministic, else of the same
    scale."""
    mixer, first, second = (
        mixer.state_dict(),
        config.mixer(layer).state_dict(),
        config.mixer(layer).state_dict(),
    )
    for name in names:
        if torch.equal(first[name], second[name]):
            assert torch.equal(mixer[name].to(first[name]), first[name])
        else:
            assert 0.3 < mixer[name].norm() / first[name].norm() < 3


def test_a_fresh_model_leaves_mixers_as_they_are():
    model = tiny(initializer_range=20.0)
    for layer, block in enumerate(model.model.layers):
        assert_drawn_by_a_mixer(block.mixer, model.config, layer, block.mixer.state_dict())
        assert block.mlp.up_proj.weight.std() > 10


def test_a_layer_whose_memory_was_replaced_starts_as_a_fresh_mixer(tmp_path):
    model = tiny(("linear-attention", "linear-attention"), initializer_range=20.0)
    model.save_pretrained(tmp_path)
    config = TTRConfig.from_pretrained(tmp_path)
    config.layers = ["linear-attention", "mesanet"]
    changed, report = TTRForCausalLM.from_pretrained(
        tmp_path, config=config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    new = {name.removeprefix("model.layers.1.mixer.") for name in report["missing_keys"]}
    assert new and not any(name.startswith("model.") for name in new)
    assert_drawn_by_a_mixer(changed.model.layers[1].mixer, config, 1, new)
    assert torch.equal(changed.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_prefix_continues(name):
    model, ids = tiny(name), tokens(2, 9)
    with torch.no_grad():
        whole = model(ids).logits
        cache = model(ids[:, :4], use_cache=True).past_key_values
        kept = copy.deepcopy(cache)
        rest = model(ids[:, 4:], past_key_values=cache).logits
        assert_close(rest, whole[:, 4:])
        assert kept.get_seq_length() == 4 and cache.get_seq_length() == 9
        again = copy.deepcopy(kept)
        assert torch.equal(model(ids[:, 4:], past_key_values=again).logits, rest)
        steps = [model(ids[:, t : t + 1], past_key_values=kept).logits for t in range(4, 9)]
        assert_close(torch.cat(steps, dim=1), whole[:, 4:])


def test_states_survive_saving():
    model, ids = tiny(), tokens(2, 9)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        other = TTRCache(len(HYBRID))
        for layer, state in zip(other.layers, cache.states(), strict=True):
            layer.state = ttr.State.from_state_dict(
                {name: tensor.clone() for name, tensor in state.state_dict().items()}
            )
        assert torch.equal(
            model(ids[:, 4:], past_key_values=other).logits, model(ids[:, 4:], past_key_values=cache).logits
        )


# --------------------------------------------------------------------------------------------------- generate
@pytest.mark.parametrize("name", ENTRIES)
def test_greedy_generation_is_the_argmax_of_the_full_pass(name):
    model, rows = tiny(name), [tokens(3), tokens(5)]
    ids, mask = padded(rows, "left")
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for i, row in enumerate(rows):
        new = out.sequences[i, ids.shape[1] :]
        with torch.no_grad():
            logits = model(torch.cat([row, new])[None]).logits[0, len(row) - 1 : -1]
        assert torch.equal(logits.argmax(-1), new)
        # generate hands out float32
        assert_close(torch.stack([step[i] for step in out.logits]), logits, FLOAT32)


def test_sampling_needs_no_cache_to_be_the_same():
    model, ids = tiny(), tokens(2, 4)
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        drawn.append(model.generate(ids, max_new_tokens=8, do_sample=True, use_cache=use_cache))
    assert torch.equal(*drawn)


def test_beam_search_finds_the_best_of_all_continuations():
    size, new = 4, 3
    model = tiny(vocab_size=size)
    ids = tokens(2, 5, vocabulary=size)
    # wide enough to keep all tokens
    beams = model.generate(ids, max_new_tokens=new, num_beams=size ** (new - 1), do_sample=False)
    tails = torch.tensor(list(itertools.product(range(size), repeat=new)))
    for i in range(2):
        every = torch.cat([ids[i].expand(len(tails), -1), tails], dim=1)
        with torch.no_grad():
            log_p = model(every).logits[:, -new - 1 : -1].log_softmax(-1)
        best = log_p.gather(-1, tails[..., None]).sum((1, 2)).argmax()
        assert torch.equal(beams[i], every[best])


def test_generation_goes_on_from_a_cache():
    model, ids = tiny(), tokens(2, 6)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
    assert torch.equal(
        model.generate(ids, **{CACHE: cache}, max_new_tokens=4, do_sample=False),
        model.generate(ids, max_new_tokens=4, do_sample=False),
    )


def test_cache_rows_move_with_the_batch():
    model, ids, rows = tiny(), tokens(3, 5), torch.tensor([2, 0, 0])
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        reordered, repeated = copy.deepcopy(cache), copy.deepcopy(cache)
        reordered.reorder_cache(rows)
        repeated.batch_repeat_interleave(2)
        whole = model(ids[:, 4:], past_key_values=cache).logits
        assert_close(model(ids[rows, 4:], past_key_values=reordered).logits, whole[rows])
        assert_close(
            model(ids.repeat_interleave(2, 0)[:, 4:], past_key_values=repeated).logits,
            whole.repeat_interleave(2, 0),
        )
        cache.reset()
        assert cache.get_seq_length() == 0
        assert_close(model(ids[:, :4], past_key_values=cache).logits, model(ids[:, :4]).logits)


def test_what_a_memory_cannot_do_is_a_sentence():
    model, ids = tiny(), tokens(1, 4)
    cache = model(ids).past_key_values
    cache.crop(0)
    with pytest.raises(ValueError, match="Layer 0: This memory does not store its pairs.*activate_past"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="not keys and values"):
        cache.update(None, None, 0)
    with pytest.raises(ValueError, match="must be a ttr.models.TTRCache, got DynamicCache"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


# ---------------------------------------------------------------------------------------- padding and packing
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_padding_changes_nothing(side, batch):
    model, rows = tiny(), rows_of(batch, side)
    # a longer row, so that one row alone is padded too
    ids, mask = padded([*rows, tokens(8)] if side != "none" else rows, side)
    ids, mask, following = ids[:batch], mask[:batch], tokens(batch, 2)
    with torch.no_grad():
        out = model(ids, attention_mask=mask, use_cache=True, output_hidden_states=True)
        longer = torch.cat([mask, torch.ones(batch, 1, dtype=torch.int64)], dim=1)
        steps = [
            model(following[:, :1], attention_mask=longer, past_key_values=out.past_key_values).logits,
            model(following[:, 1:], past_key_values=out.past_key_values).logits,
        ]
        for i, row in enumerate(rows):
            alone = model(torch.cat([row, following[i]])[None], output_hidden_states=True)
            real = mask[i].bool()
            assert_close(out.logits[i, real], alone.logits[0, : len(row)])
            for hidden, wanted in zip(out.hidden_states, alone.hidden_states, strict=True):
                assert_close(hidden[i, real], wanted[0, : len(row)])
            assert_close(torch.cat([step[i] for step in steps]), alone.logits[0, len(row) :])
    assert len(out.hidden_states) == len(HYBRID) + 1
    assert torch.equal(out.hidden_states[0][mask.bool()], model.model.embed_tokens(ids)[mask.bool()])


@pytest.mark.parametrize(
    "packed", [{}, {"position_ids": torch.tensor([[0, 1, 2, 0, 1]])}], ids=["padded", "packed"]
)
def test_hidden_states_have_gradients_under_padding(packed):
    model, ids = tiny(), tokens(1, 5)
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    out = model(ids, attention_mask=mask, output_hidden_states=True, labels=ids, **packed)
    gradients = torch.autograd.grad(out.loss, [*out.hidden_states, model.model.embed_tokens.weight])
    by_token = torch.zeros_like(gradients[-1]).index_add(0, ids[0], gradients[0][0])
    assert_close(by_token, gradients[-1], FLOAT32)  # transformers takes the loss in float32
    for gradient in gradients[:-1]:
        assert gradient[0, mask[0].bool()].any() and not gradient[0, 2].any()


def test_padded_rows_continue_with_padded_rows():
    model, first, second = (
        tiny((*HYBRID, "softmax-attention")),
        [tokens(4), tokens(2)],
        [tokens(1), tokens(3)],
    )
    between = tokens(2, 1)
    with torch.no_grad():
        ids, mask = padded(first, "left")
        cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
        model(between, past_key_values=cache)
        ids, mask = padded(second, "right")
        logits = model(ids, attention_mask=mask, past_key_values=cache).logits
        for i in range(2):
            alone = model(torch.cat([first[i], between[i], second[i]])[None]).logits[0]
            assert_close(logits[i, : len(second[i])], alone[-len(second[i]) :])


def test_a_token_after_a_hole_is_not_predicted_from_the_hole():
    model, ids = tiny(), tokens(1, 5)
    holed = model(ids, attention_mask=torch.tensor([[1, 1, 0, 1, 1]]), labels=ids).loss
    seen = ids[:, [0, 1, 3, 4]]
    labels = seen.masked_fill(torch.tensor([[False, False, True, False]]), -100)
    assert_close(holed, model(seen, labels=labels).loss, FLOAT32)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_count_in_the_loss(side):
    model, rows = tiny(), [tokens(4), tokens(7)]
    ids, mask = padded(rows, side)
    parts = [model(row[None], labels=row[None]).loss * (len(row) - 1) for row in rows]
    model.train()
    wanted = sum(parts) / sum(len(row) - 1 for row in rows)
    # transformers takes the loss in float32
    assert_close(model(ids, attention_mask=mask, labels=ids).loss, wanted, FLOAT32)


def test_packed_sequences_are_separate_sequences():
    model, rows = tiny(), [tokens(4), tokens(1), tokens(6)]
    batch = DataCollatorWithFlattening()([{"input_ids": row} for row in rows])
    bounds = torch.tensor([0, 4, 5, 11])
    with torch.no_grad():
        separate = [model(row[None], labels=row[None]) for row in rows]
        packed = model(batch["input_ids"], cu_seqlens=bounds, labels=batch["input_ids"], use_cache=True)
        flattened = model(**batch)
        assert_close(packed.logits, torch.cat([out.logits for out in separate], dim=1))
        assert torch.equal(flattened.logits, packed.logits) and torch.equal(flattened.loss, packed.loss)
        wanted = (
            sum(out.loss * (len(row) - 1) for out, row in zip(separate, rows, strict=True) if len(row) > 1)
            / 8
        )
        assert_close(packed.loss, wanted, FLOAT32)  # transformers takes the loss in float32
        following = tokens(3, 1)
        step = model(following, past_key_values=packed.past_key_values).logits
        for i, row in enumerate(rows):
            assert_close(step[i], model(torch.cat([row, following[i]])[None]).logits[0, -1:])


def test_positions_that_begin_late_still_begin_a_sequence():
    model, ids = tiny(), tokens(2, 4)
    with torch.no_grad():
        logits = model(ids, position_ids=torch.tensor([[3, 4, 0, 1]])).logits
        assert_close(logits, torch.cat([model(ids[:, :2]).logits, model(ids[:, 2:]).logits], dim=1))


def test_wrong_masks_are_a_sentence():
    model, ids = tiny(), tokens(1, 4)
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[1, 4\]"):
        model(ids, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match="batch of 1, got 2"):
        model(tokens(2, 4), cu_seqlens=torch.tensor([0, 2, 4]))


# --------------------------------------------------------------------------------------------------- training
def test_a_hybrid_trains_with_trainer(tmp_path):
    model = tiny(dtype=torch.float32, initializer_range=0.02)
    data = [
        {"input_ids": row, "labels": row}
        for row in (torch.arange(12) + torch.arange(16)[:, None]) % VOCABULARY
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    again = TTRForCausalLM.from_pretrained(tmp_path / "checkpoint-20").eval()
    assert torch.equal(
        again(data[0]["input_ids"][None]).logits, model.eval()(data[0]["input_ids"][None]).logits
    )


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    model, ids = tiny(), tokens(2, 6)
    model.train()
    gradients = []
    for checkpoint in (False, True):
        if checkpoint:
            enable = (
                "activation_checkpointing_enable"
                if hasattr(model, "activation_checkpointing_enable")
                else "gradient_checkpointing_enable"
            )
            getattr(model, enable)({"use_reentrant": reentrant})
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient)
    for call in ({"use_cache": True}, {"past_key_values": TTRCache(len(HYBRID))}):
        assert model(ids, **call).past_key_values is None
    with pytest.raises(ValueError, match="would update its state twice"):
        model(ids, past_key_values=tiny()(ids).past_key_values)
