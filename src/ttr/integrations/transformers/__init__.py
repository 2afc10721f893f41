"""ttr in models of transformers.

Pretrained recurrent and hybrid models on the CPU, several times as fast: ``accelerate`` a model, or
everything in a block of ``accelerated``.

    import ttr.integrations.transformers as on_cpu

    model = on_cpu.accelerate(AutoModelForCausalLM.from_pretrained(...))

The recurrent layers of such a model as ``ttr.nn.Mixer``, with the same weights: ``to_mixers``.

Memories in place of attention layers: ``convert`` (also ``ttr.convert``), then ``distill``;
``from_pretrained`` loads a converted model.
"""

from __future__ import annotations

from ttr.integrations.transformers.acceleration import accelerate, accelerated, restore
from ttr.integrations.transformers.conversion import MemoryAttention, convert, from_pretrained
from ttr.integrations.transformers.distillation import distill
from ttr.integrations.transformers.recurrent_layers import MemoryMixer, to_mixers
from ttr.integrations.transformers.replacement import RULES

__all__ = [
    "RULES",
    "MemoryAttention",
    "MemoryMixer",
    "accelerate",
    "accelerated",
    "convert",
    "distill",
    "from_pretrained",
    "restore",
    "to_mixers",
]
