"""ttr inside other people's models. Nothing here is imported by ``import ttr``."""
