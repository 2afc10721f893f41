"""The dual form of networks that move at every token along gradients at a chunk's start, with a backward pass
of its own."""
