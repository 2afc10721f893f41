"""Tiny decoders and batches for them, which several test files need."""

import torch

import ttr
from ttr.laws.tolerances import FLOAT64, error
from ttr.models import TTRConfig, TTRForCausalLM

VOCABULARY = 11
HYBRID = ("gated-deltanet", "sliding-window-attention", "mesanet")
ENTRIES = tuple(name for name, entry in ttr.catalogue.items() if entry.problem.function.causal)


def tiny(layers=HYBRID, dtype=torch.float64, **settings):
    layers = [layers] if isinstance(layers, str) else list(layers)
    config = TTRConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_hidden_layers": len(layers),
            "num_heads": 2,
            "intermediate_size": 24,
            "layers": layers,
            "initializer_range": 0.5,
            **settings,
        }
    )
    return TTRForCausalLM(config).to(dtype).eval()


def tokens(*shape, vocabulary=VOCABULARY):
    return torch.randint(0, vocabulary, shape)


def assert_close(got, wanted, bound=FLOAT64):
    assert error(got, wanted) <= bound


def padded(rows, side):
    """Rows of different lengths as one batch, and its mask."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 3), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask
