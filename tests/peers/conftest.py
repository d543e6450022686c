"""Comparisons with other people's implementations, which `make test-peers` installs and nothing else needs."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the comparisons that did not run, so that nobody takes a skipped comparison for a passed one."""
    skipped = {report.nodeid for report in terminalreporter.stats.get("skipped", []) if "tests/peers/" in report.nodeid}
    if skipped:
        terminalreporter.write_line(f"NOT COMPARED with other implementations: {', '.join(sorted(skipped))}")
        terminalreporter.write_line("`make test-peers` installs them beside the project and compares.")
