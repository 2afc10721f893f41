"""Other libraries' interfaces over ``ttr.regress``: ``ttr.compat.fla``."""
