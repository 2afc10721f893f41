"""How ``from_pretrained(..., tp_plan="auto")`` divides mixers: by their heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.integrations.tensor_parallel import ALL_PARALLEL_STYLES, TensorParallelLayer

from ttr.layer.heads import divide_heads
from ttr.layer.mixer import Mixer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

STYLE = "ttr_heads"


class HeadsParallel(TensorParallelLayer):
    """A mixer computes its share of the heads; all of them where they cannot be shared."""

    def install_forward(self, module: Mixer, mesh: DeviceMesh) -> Mixer:
        """Divide a mixer, before its tensors are loaded."""
        divide_heads(module, mesh)
        return module


MIXERS: dict[str, str] = {}
"""What the plan of a decoder says of its mixers: nothing in versions of transformers whose styles are not
functions of a module, where every process computes whole mixers."""

if hasattr(TensorParallelLayer, "install_forward"):
    ALL_PARALLEL_STYLES.register(STYLE, HeadsParallel())
    MIXERS["layers.*.mixer"] = STYLE
