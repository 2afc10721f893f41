"""The ways to run a problem, fastest first; ``auto`` takes the first that does not refuse."""

from ttr.backends.attention import Attention
from ttr.backends.backend import Backend
from ttr.backends.chunkwise_additive import ChunkwiseAdditive
from ttr.backends.chunkwise_delta import ChunkwiseDelta
from ttr.backends.chunkwise_ridge import ChunkwiseRidge
from ttr.backends.large_chunk import LargeChunk
from ttr.backends.local_polynomial import LocalPolynomial
from ttr.backends.mini_batch import MiniBatch
from ttr.backends.recurrent import Recurrent

BACKENDS: tuple[Backend, ...] = (ChunkwiseAdditive(), ChunkwiseDelta(), ChunkwiseRidge(), Attention(), LocalPolynomial(), MiniBatch(), LargeChunk(),
                                 Recurrent())

__all__ = ["BACKENDS", "Backend"]
