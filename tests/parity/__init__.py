"""The oracle against original implementations, so that a fault shared by definition and engines is found."""
