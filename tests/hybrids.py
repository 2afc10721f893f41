"""Inputs and caches of the small models of transformers that are accelerated in tests."""

import torch

from ttr.experiments.bench.hybrids import TINY


def ids(batch=2, length=70):
    return torch.randint(3, TINY.vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def cache_of(output):
    kinds = ("past_key_values", "cache_params", "state")
    return {name: getattr(output, name) for name in kinds if getattr(output, name, None) is not None}
