"""The claims of "Test-time regression" (arXiv 2501.12352) as experiments with pass bands."""
