"""Models of flash-linear-attention (fla) as models of ttr, and back.

    import ttr.integrations.fla

    model = ttr.integrations.fla.from_pretrained("folder")  # a TTRForCausalLM with fla's weights
    ttr.integrations.fla.save_pretrained(model, "another")  # fla's names again

fla itself is not needed. Its operators are ``ttr.compat.fla``.
"""

from __future__ import annotations

from ttr.integrations.fla.checkpoints import from_pretrained, save_pretrained
from ttr.integrations.fla.families import FAMILIES

__all__ = ["FAMILIES", "from_pretrained", "save_pretrained"]
