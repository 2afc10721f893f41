"""The ways to run a problem, fastest first; ``auto`` takes the first that does not refuse."""

from ttr.backends.attention import Attention
from ttr.backends.backend import Backend
from ttr.backends.channel_scan import ChannelScan
from ttr.backends.chunkwise_additive import ChunkwiseAdditive
from ttr.backends.chunkwise_delta import ChunkwiseDelta
from ttr.backends.chunkwise_ridge import ChunkwiseRidge
from ttr.backends.local_polynomial import LocalPolynomial
from ttr.backends.recurrent import Recurrent

BACKENDS: tuple[Backend, ...] = (ChannelScan(), ChunkwiseAdditive(), ChunkwiseDelta(), ChunkwiseRidge(), Attention(), LocalPolynomial(), Recurrent())

__all__ = ["BACKENDS", "Backend"]
