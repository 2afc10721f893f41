"""The compiled kernels for CPUs; ``library`` says whether they were built and, if not, why."""
