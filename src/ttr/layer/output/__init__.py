"""What happens to the read-out between memory and output projection."""
