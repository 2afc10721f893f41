"""With -v the table of measured errors closes the report."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.verbosity < 0:
        return
    rows = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "parity"
    ]
    if rows:
        terminalreporter.section(
            "oracle against originals: largest relative error of outputs, states and gradients"
        )
    for entry, original, error in rows:
        terminalreporter.write_line(f"{entry:28} {error:8.1e}  {original}")
