"""Sequence parallelism: several processes, each with a shard of the sequences, compute what one does."""

from functools import partial

import pytest
import torch

import ttr
from tests.decoders import ENTRIES, tiny, tokens
from tests.shards import BOUNDS, TIME, of_mixer, of_model, of_regress, of_training, run
from ttr.distributed import SequenceShard, sequence_parallel, split, strategy
from ttr.laws.rows import Sizes, covering, make_case
from ttr.laws.tolerances import FLOAT32, FLOAT64

HYBRID = ("gated-deltanet", "mamba2", "softmax-attention", "rwkv7")
"""Layers that pass their states on, combine, and gather, with short convolutions and a token shift."""


def assert_equal(processes, cases, bound=FLOAT64):
    """Each case, on several processes, to the digits of one."""
    bounds = {"loss": FLOAT32}  # which transformers computes in float32
    wrong = {
        name: far
        for name, errors in run(processes, cases).items()
        if (far := {at: x for at, x in errors.items() if not x <= bounds.get(at, bound)})
    }
    assert not wrong


def of_bounds(measure, names, **options):
    return {
        f"{name} {words}": partial(measure, name, bounds, **options)
        for name in names
        for words, bounds in BOUNDS.items()
    }


def test_three_processes_are_one():
    # a state that has no gradient is passed on, by a call that has one; the next case would get a gradient
    # that nobody awaits here
    queries = partial(of_regress, ttr.catalogue["gated-oja"].problem, None, leaves=("q",))
    weights = ttr.weights.Geometric() * ttr.weights.Importance()
    solvers = ttr.solvers.OneStep(), ttr.solvers.ExactRidge()
    problems = [ttr.Problem(weights, ttr.functions.Linear(), solver) for solver in solvers]
    names = ("gated-deltanet", "mamba2", "sliding-window-attention", "softmax-attention", "mamba3")
    # shorter than what a convolution reads
    short = partial(of_mixer, "mamba2", None, time=5)
    cases = (
        {"queries": queries, "short": short} | of_bounds(of_regress, problems) | of_bounds(of_mixer, names)
    )
    assert_equal(3, cases)


@pytest.mark.full
def test_memories_on_two_processes():
    problems = [problem for problem in covering() if problem.function.causal][::3]
    assert_equal(2, of_bounds(of_regress, problems))


@pytest.mark.full
def test_strong_decays_and_resets_in_float32():
    names = ("mamba2", "gla", "mesanet", "forgetting-attention", "gated-deltanet")
    problems = [ttr.catalogue[name].problem for name in names]
    cases = of_bounds(of_regress, problems, strong_gates=True, dtype=torch.float32)
    assert_equal(2, cases, FLOAT32)


@pytest.mark.full
def test_every_layer_on_two_processes():
    assert_equal(2, of_bounds(of_mixer, ENTRIES))


@pytest.mark.full
def test_a_sequence_over_four_processes():
    problems = [problem for problem in covering() if problem.function.causal][::9]
    names = ("mamba2", "gla", "mesanet", "forgetting-attention", "path-attention", "ttt-linear", "mamba3")
    assert_equal(4, of_bounds(of_regress, problems) | of_bounds(of_mixer, names))


@pytest.mark.full
def test_decoders_with_checkpoints_and_under_ddp_and_fsdp():
    cases = of_bounds(of_model, [HYBRID]) | of_bounds(of_model, [HYBRID], checkpoints=True)
    assert_equal(2, cases | {wrap: partial(of_training, HYBRID, 1, wrap) for wrap in ("ddp", "fsdp")})


@pytest.mark.full
def test_data_and_sequence_parallelism_together():
    assert_equal(4, {wrap: partial(of_training, HYBRID, 2, wrap) for wrap in ("ddp", "fsdp")})


def test_a_block_ends_with_its_calls():
    with sequence_parallel(SequenceShard.among(2, 0, TIME)) as shard:
        assert ttr.distributed.current() is shard
    assert ttr.distributed.current() is None


def test_shards_cover_all_tokens_and_their_documents():
    cu_seqlens = [0, 2, 2, 9, 11]
    shards = [SequenceShard.among(3, rank, TIME, cu_seqlens) for rank in range(3)]
    assert [shard.time for shard in shards] == [4, 4, 3]
    assert [shard.cu_seqlens().tolist() for shard in shards] == [[0, 2, 4], [0, 4], [0, 1, 3]]
    assert [(shard.before, shard.earlier) for shard in shards] == [
        (0, range(0)),
        (2, range(1)),
        (6, range(2)),
    ]
    assert shards[0].last == (2, 4, 2)
    assert [shard.passes_on for shard in shards] == [True, True, False]
    assert shards[2].start(2, torch.device("cpu")).tolist() == [6, 0]
    assert shards[1].cut(torch.arange(TIME)[None]).tolist() == [[4, 5, 6, 7]]
    apart = SequenceShard.among(2, 1, 6, [0, 3, 6])
    assert not apart.exchanges and apart.before == 0
    rows = SequenceShard.among(2, 1, 6)
    assert rows.cu_seqlens() is None and rows.start(3, torch.device("cpu")).tolist() == [3, 3, 3]


def test_the_label_of_the_last_token_is_held_by_the_next_process():
    ids = torch.arange(6)[None]
    labels = ids.masked_fill(ids == 2, -100)
    first, second = (split(SequenceShard.among(2, rank, 6, [0, 5, 6]), ids, labels) for rank in range(2))
    assert first["input_ids"].tolist() == [[0, 1, 2]] and first["shift_labels"].tolist() == [[1, -100, 3]]
    assert second["shift_labels"].tolist() == [[4, -100, -100]]
    assert first["num_items_in_batch"] == second["num_items_in_batch"] == 3


def test_memories_are_shared_in_the_way_they_allow():
    ways = {name: strategy(ttr.catalogue[name].problem) for name in ENTRIES}
    assert {way: name for name, way in ways.items()}.keys() == {"combines", "gathers", "passes"}
    assert ways["mamba2"] == ways["mesanet"] == "combines"
    assert ways["softmax-attention"] == ways["sliding-window-attention"] == "gathers"
    assert ways["gated-deltanet"] == ways["path-attention"] == ways["titans"] == "passes"
    with pytest.raises(ValueError, match="data parallelism"):
        strategy(ttr.catalogue["skyformer"].problem)


def test_calls_that_do_not_fit_a_shard_are_refused():
    shard = SequenceShard.among(2, 0, TIME)
    layer = ttr.nn.Mixer(8, ttr.catalogue["mamba2"], heads=2)
    x = torch.randn(1, shard.time, 8)
    with sequence_parallel(shard):
        with pytest.raises(ValueError, match="holds 6 of 11"):
            layer(x[:, 1:])
        with pytest.raises(ValueError, match="brings a state"):
            layer(x, layer.initial_state(1))
        with pytest.raises(ValueError, match="boundaries of all sequences"):
            layer(x, cu_seqlens=torch.tensor([0, 2, shard.time]))
        with pytest.raises(ValueError, match="Decode outside"):
            layer.step(x[:, 0], layer.initial_state(1))
    case = make_case(ttr.catalogue["gla"].problem, Sizes(batch=1, time=TIME))
    with pytest.raises(ValueError, match="holds 6 of 11"):
        ttr.distributed.regress(
            case.problem, case.q, case.k, case.v, shard=shard, params=case.params, **case.controls
        )
    with pytest.raises(ValueError, match="all tokens"):
        shard.cut(x)
    with pytest.raises(ValueError, match="tokens must be"):
        SequenceShard.among(3, 0, 2)
    with pytest.raises(ValueError, match="one dimension of a DeviceMesh"):
        SequenceShard.of("cpu", TIME)
    with pytest.raises(ValueError, match="one label"):
        split(shard, torch.zeros(1, TIME, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="has 5 tokens along dimension 1"):
        split(shard, torch.zeros(1, 5, dtype=torch.int64))


def test_a_decoder_takes_no_cache_no_padding_and_no_labels_of_a_shard():
    model = tiny("mamba2")
    ids = tokens(1, 6)
    read = model(ids, use_cache=True)
    cache = read.get("cache", read.get("past_key_values"))
    with sequence_parallel(SequenceShard.among(2, 0, TIME)):
        with pytest.raises(ValueError, match="next process"):
            model(ids, labels=ids)
        with pytest.raises(ValueError, match="next process"):
            model(ids, labels=ids, shift_labels=None)
        with pytest.raises(ValueError, match="masks out"):
            model(ids, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]))
        with pytest.raises(ValueError, match="brings a state"):
            model(ids, past_key_values=cache)
        with pytest.raises(ValueError, match="or a cache"):
            model(ids, use_cache=True)


def test_a_decoder_makes_no_cache_of_a_shard():
    model, ids = tiny("mamba2"), tokens(1, 6)
    apart = SequenceShard.among(2, 0, TIME, [0, 6, TIME])  # nothing is to be exchanged
    with sequence_parallel(apart):
        read = model(ids)
    assert read.get("cache", read.get("past_key_values")) is None
    assert torch.equal(read.logits, model(ids).logits)


def test_models_that_do_not_know_of_shards_are_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    hybrid = ttr.convert(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), [1], to="mamba2")
    head = ttr.models.TTRForSequenceClassification(tiny("mamba2").config)
    ids = tokens(1, 6)
    with sequence_parallel(SequenceShard.among(2, 0, TIME)):
        with pytest.raises(ValueError, match="would take a shard for the whole"):
            hybrid(ids)
        with pytest.raises(ValueError, match="TTRForSequenceClassification reads whole sequences"):
            head(ids)
