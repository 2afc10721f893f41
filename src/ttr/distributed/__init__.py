"""Sequence parallelism: every process of a mesh holds a contiguous stretch of the sequences.

    stretch = Stretch.of(mesh["sequence"], tokens=T)            # or cu_seqlens=, of packed documents
    y = regress(problem, *map(stretch.cut, (q, k, v)), stretch=stretch)

    with sequence_parallel(stretch):                            # around a Mixer, or a whole model
        loss = model(**split(stretch, input_ids)).loss          # the share of this process
        loss.backward()

Outputs, states and gradients are those of one process. Gradients of weights are shares, which have to be
summed over the processes of the stretch: by an all-reduce, or by DDP or FSDP over all processes, which
average, with the loss multiplied by their number.

All processes must call the same things in the same order, with the same inputs requiring gradients; backward
passes that compute a forward pass again, for checkpoints, belong inside the ``with``.
"""

from ttr.distributed.batch import split
from ttr.distributed.parallel import current, sequence_parallel
from ttr.distributed.regression import means, regress
from ttr.distributed.sequences import StretchSequences
from ttr.distributed.stretch import Stretch

__all__ = ["Stretch", "StretchSequences", "current", "means", "regress", "sequence_parallel", "split"]
