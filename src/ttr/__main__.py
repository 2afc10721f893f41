"""The program ``ttr``, also ``python -m ttr``: the command line, or the sentence that says what it lacks."""

from __future__ import annotations

from ttr.extras import remedy


def main() -> None:
    """Run a command. If an optional package is missing, the extra that installs it is named, with exit code
    1."""
    try:
        from ttr import cli

        cli.main()
    except ModuleNotFoundError as error:
        sentence = remedy(error)
        if sentence is None:
            raise
        raise SystemExit(f"ttr: {sentence}") from None


if __name__ == "__main__":
    main()
