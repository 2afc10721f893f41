"""The oracle against original implementations, so that definition and engines cannot be wrong in company."""
