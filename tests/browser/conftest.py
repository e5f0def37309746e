"""What tests in a browser share: the browser, what a failure leaves below build/browser, and the panels' times."""

from collections.abc import Iterator

import pytest

from tests.browser.chromium import chromium
from tests.browser.lab import Lab


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Keeps what there is to see of a failure."""
    report = yield
    if report.failed:
        for lab in Lab.opened:
            lab.keep()
    return report


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints the seconds that panels took to answer."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if report.when == "call":
                terminalreporter.write_line(f"{name}: {value}")
