"""ttr in models of transformers.

Pretrained recurrent and hybrid models on the CPU, several times as fast: ``accelerate`` a model, or
everything in a block of ``accelerated``.

    import ttr.integrations.transformers as on_cpu

    model = on_cpu.accelerate(AutoModelForCausalLM.from_pretrained(...))

Memories in place of attention layers: ``convert`` (also ``ttr.convert``), then ``distill``;
``from_pretrained`` loads a converted model.
"""

from __future__ import annotations

from ttr.integrations.transformers.acceleration import accelerate, accelerated, restore
from ttr.integrations.transformers.conversion import MemoryAttention, convert, distill, from_pretrained
from ttr.integrations.transformers.replacement import RULES

__all__ = [
    "RULES",
    "MemoryAttention",
    "accelerate",
    "accelerated",
    "convert",
    "distill",
    "from_pretrained",
    "restore",
]
