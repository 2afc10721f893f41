"""The engines, fastest first; ``auto`` chooses the first that does not refuse."""

from ttr.engines.engine import Engine
from ttr.engines.native.engine import Native
from ttr.engines.native.scan import NativeScan
from ttr.engines.torch.attention import Attention
from ttr.engines.torch.channel_scan import ChannelScan
from ttr.engines.torch.chunkwise_additive import ChunkwiseAdditive
from ttr.engines.torch.chunkwise_delta import ChunkwiseDelta
from ttr.engines.torch.chunkwise_levels import ChunkwiseLevels
from ttr.engines.torch.chunkwise_momentum import ChunkwiseMomentum
from ttr.engines.torch.chunkwise_oja import ChunkwiseOja
from ttr.engines.torch.chunkwise_ridge import ChunkwiseRidge
from ttr.engines.torch.corrected_attention import CorrectedAttention
from ttr.engines.torch.dual_form.engine import DualForm
from ttr.engines.torch.kernel_ridge import KernelRidge
from ttr.engines.torch.kernel_sums import KernelSums
from ttr.engines.torch.large_chunk import LargeChunk
from ttr.engines.torch.local_polynomial import LocalPolynomial
from ttr.engines.torch.mini_batch import MiniBatch
from ttr.engines.torch.nystrom import Nystrom
from ttr.engines.torch.recurrent import Recurrent
from ttr.engines.torch.superblock import Superblock
from ttr.engines.torch.transported_attention import TransportedAttention

ENGINES: tuple[Engine, ...] = (
    KernelSums(),
    NativeScan(),
    ChannelScan(),
    Native(),
    Superblock(),
    ChunkwiseAdditive(),
    ChunkwiseLevels(),
    ChunkwiseDelta(),
    ChunkwiseMomentum(),
    ChunkwiseOja(),
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

__all__ = ["ENGINES", "Engine"]
