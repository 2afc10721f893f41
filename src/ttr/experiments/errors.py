"""The one exception that experiments raise for what a user can put right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Something the user can put right, said in one sentence that names the remedy; the command line prints
    it and exits with 1."""


@contextlib.contextmanager
def for_the_user() -> Iterator[None]:
    """Turn the ValueErrors of code that checks the user's input into a UserError with the same sentence."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
