"""The ways to run a problem, fastest first; ``auto`` takes the first that does not refuse."""

from ttr.backends.attention import Attention
from ttr.backends.backend import Backend
from ttr.backends.channel_scan import ChannelScan
from ttr.backends.chunkwise_additive import ChunkwiseAdditive
from ttr.backends.chunkwise_delta import ChunkwiseDelta
from ttr.backends.chunkwise_levels import ChunkwiseLevels
from ttr.backends.chunkwise_momentum import ChunkwiseMomentum
from ttr.backends.chunkwise_ridge import ChunkwiseRidge
from ttr.backends.corrected_attention import CorrectedAttention
from ttr.backends.dual_form.backend import DualForm
from ttr.backends.kernel_ridge import KernelRidge
from ttr.backends.large_chunk import LargeChunk
from ttr.backends.local_polynomial import LocalPolynomial
from ttr.backends.mini_batch import MiniBatch
from ttr.backends.native.backend import Native
from ttr.backends.nystrom import Nystrom
from ttr.backends.recurrent import Recurrent
from ttr.backends.superblock import Superblock
from ttr.backends.transported_attention import TransportedAttention

BACKENDS: tuple[Backend, ...] = (
    ChannelScan(),
    Native(),
    Superblock(),
    ChunkwiseAdditive(),
    ChunkwiseLevels(),
    ChunkwiseDelta(),
    ChunkwiseMomentum(),
    DualForm(),
    MiniBatch(),
    LargeChunk(),
    ChunkwiseRidge(),
    KernelRidge(),
    Attention(),
    TransportedAttention(),
    CorrectedAttention(),
    LocalPolynomial(),
    Nystrom(),
    Recurrent(),
)

__all__ = ["BACKENDS", "Backend"]
