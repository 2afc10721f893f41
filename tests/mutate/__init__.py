"""Random faults in changed files, which the tests must catch. ``make mutate`` runs it."""
