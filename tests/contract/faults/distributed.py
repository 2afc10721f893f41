"""Faults in what processes that share sequences exchange."""

from .fault import Fault

THREE = ("test_three_processes_are_one",)

FAULTS = (
    Fault("distributed/shard.py", "- self._begin(self.cuts[self.rank])", "- 0", THREE),
    Fault(
        "distributed/shard.py", "if start < bound < stop", "if start <= bound < stop", ("test_shards_cover",)
    ),
    Fault(
        "distributed/batch.py", "bound - 1 for bound", "bound - 2 for bound", ("test_the_label_of_the_last",)
    ),
    Fault(
        "distributed/batch.py",
        "(shifted != NO_LOSS).sum()",
        "(labels != NO_LOSS).sum()",
        ("test_the_label_of_the_last",),
    ),
    Fault("distributed/communication.py", "dist.all_reduce(summed, group=ctx.group)", "pass", THREE),
    Fault(
        "distributed/communication.py",
        "_post(gradient, ctx.group, ctx.of)",
        "_post(2 * gradient, ctx.group, ctx.of)",
        THREE,
    ),
    Fault("distributed/communication.py", "connected(flat(*tensors), inputs)", "flat(*tensors)", THREE),
    Fault(
        "distributed/batch.py", "own = shard.cut(input_ids)", "own = input_ids", ("test_calls_that_do_not",)
    ),
    Fault(
        "layer/mixer.py", "if distributed.current() is not None:", "if False:", ("test_calls_that_do_not",)
    ),
    Fault(
        "models/modeling.py", "shard.of_call(x, cache,", "shard.of_call(x, None,", ("test_a_decoder_takes",)
    ),
    Fault("models/modeling.py", "and not sharded", "", ("test_a_decoder_makes_no_cache",)),
    Fault(
        "models/arguments.py",
        'of_loss.get("shift_labels") is None',
        '"shift_labels" not in of_loss',
        ("test_a_decoder_takes",),
    ),
    Fault(
        "models/classification.py",
        "if distributed.current() is not None:",
        "if False:",
        ("test_models_that_do_not_know",),
    ),
    Fault(
        "integrations/transformers/cached_mixer.py",
        "if distributed.current() is not None:",
        "if False:",
        ("test_models_that_do_not_know",),
    ),
    Fault("distributed/sequences.py", "self.shard.last[self.shard.rank] >= past", "True", THREE),
    Fault(
        "distributed/sequences.py",
        "[x[-1:] if shard.packed else x for x in tensors]",
        "[x[:1] if shard.packed else x for x in tensors]",
        THREE,
    ),
    Fault("distributed/sequences.py", "connected(sums, *self._send([totals], inputs))", "sums", THREE),
    Fault("distributed/regression.py", "running_sum(later), (1, 0)", "running_sum(later), (0, 1)", THREE),
    Fault(
        "distributed/regression.py",
        "form.log_importance.exp()[..., None] * key",
        "key",
        THREE,
    ),
    Fault("distributed/regression.py", "form.step[..., None] * key", "key", THREE),
    Fault("distributed/regression.py", "torch.full_like(like.position, tokens)", "like.position", THREE),
    Fault("distributed/regression.py", "unflat(gathered[process]", "unflat(gathered[0]", THREE),
    Fault("distributed/parallel.py", "_shards.pop()", "pass", ("test_a_block_ends",)),
)
