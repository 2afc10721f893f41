"""The parts applied to the read-out between memory and output projection."""
