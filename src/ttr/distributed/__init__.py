"""Sequence parallelism: every process of a mesh holds a contiguous shard of the sequences.

    shard = SequenceShard.of(mesh["sequence"], T)             # with cu_seqlens, of documents packed in a row
    y = regress(problem, *map(shard.cut, (q, k, v)), shard=shard)

    with sequence_parallel(shard):                            # around a Mixer, or a whole model
        loss = model(**split(shard, input_ids)).loss          # the share of this process
        loss.backward()

Outputs, states and gradients are those of one process. Gradients of weights are shares, which have to be
summed over the processes of the shard: by an all-reduce, or by DDP or FSDP over all processes, which
average, with the loss multiplied by their number.

All processes must call the same things in the same order, with the same inputs requiring gradients; backward
passes that compute a forward pass again, for checkpoints, belong inside the ``with``.

The heads of a layer can be shared among processes, too, by ``ttr.layer.heads.divide_heads``.
"""

from ttr.distributed.batch import split
from ttr.distributed.parallel import current, sequence_parallel
from ttr.distributed.regression import regress, strategy
from ttr.distributed.sequences import ShardSequences
from ttr.distributed.shard import SequenceShard

__all__ = ["SequenceShard", "ShardSequences", "current", "strategy", "regress", "sequence_parallel", "split"]
