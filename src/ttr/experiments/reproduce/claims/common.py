"""What several claims share."""

from __future__ import annotations

PAPER = "Wang, Shi, Fox, Test-time regression, arXiv 2501.12352"
SUBSTITUTE = "The published protocol was not seen in full; this is a stated substitute. "
SEEDS = {"smoke": (0, 1), "laptop": (1, 5), "gpu": (1, 10)}
"""By scale the first seed and how many; bands may be chosen by that of the smoke run, which is none of the
others."""
FEW_SEEDS = SEEDS | {"laptop": (1, 3)}
"""For what takes long."""
