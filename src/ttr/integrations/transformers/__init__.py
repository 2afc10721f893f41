"""Pretrained recurrent and hybrid models of transformers on the CPU, several times as fast: ``accelerate`` a
model, or everything in a block of ``accelerated``.

    import ttr.integrations.transformers as on_cpu

    model = on_cpu.accelerate(AutoModelForCausalLM.from_pretrained(...))
"""

from __future__ import annotations

from ttr.integrations.transformers.acceleration import accelerate, accelerated, restore
from ttr.integrations.transformers.replacement import RULES

__all__ = ["RULES", "accelerate", "accelerated", "restore"]
