"""The dual form of networks that take a step at every token along gradients at a chunk's start, with its own
backward pass."""
