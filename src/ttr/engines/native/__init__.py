"""The compiled kernels of the linear memories on CPUs, where they were built; ``library`` says whether and
why not."""
