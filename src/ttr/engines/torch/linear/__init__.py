"""Linear recurrences in torch's operations: chunk by chunk, and in super-blocks with a backward pass of their
own."""
