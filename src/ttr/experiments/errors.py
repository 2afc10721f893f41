"""The exception that experiments raise for errors that the user can correct."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """An error that the user can correct: one sentence that names the remedy. The command line prints it and
    exits with 1."""


@contextlib.contextmanager
def for_the_user() -> Iterator[None]:
    """Turn the ValueErrors of code that checks the user's input into a UserError with the same sentence."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
