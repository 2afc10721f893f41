"""`make sanitize`: the kernels under the compilers' sanitizers."""
