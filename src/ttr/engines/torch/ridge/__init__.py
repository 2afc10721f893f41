"""Ridge regression at every token: its systems, their preconditioner, the solve, and the passes over the
chunks of a sequence."""
