"""Forms computed by torch's own operations."""
