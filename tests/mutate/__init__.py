"""Faults drawn at random from changed files, which the tests must catch. ``make mutate`` runs it."""
