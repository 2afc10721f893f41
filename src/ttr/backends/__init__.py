"""The ways to run a problem, fastest first; ``auto`` takes the first that does not refuse."""

from ttr.backends.attention import Attention
from ttr.backends.backend import Backend
from ttr.backends.chunkwise_additive import ChunkwiseAdditive
from ttr.backends.chunkwise_delta import ChunkwiseDelta
from ttr.backends.chunkwise_momentum import ChunkwiseMomentum
from ttr.backends.chunkwise_ridge import ChunkwiseRidge
from ttr.backends.kernel_ridge import KernelRidge
from ttr.backends.local_polynomial import LocalPolynomial
from ttr.backends.recurrent import Recurrent

BACKENDS: tuple[Backend, ...] = (
    ChunkwiseAdditive(),
    ChunkwiseDelta(),
    ChunkwiseMomentum(),
    ChunkwiseRidge(),
    KernelRidge(),
    Attention(),
    LocalPolynomial(),
    Recurrent(),
)

__all__ = ["BACKENDS", "Backend"]
