"""Recipes that train, measure and report, as `ttr compare` and `ttr bench` do."""
