"""What a problem becomes before an engine computes it."""
