"""A real browser, without a window, for tests of pages."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
HERE = ("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "data:", "about:", "blob:")


@contextlib.contextmanager
def chromium() -> Iterator:
    """Yields Playwright's browser; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page in a context of its own, and what it did: addresses it asked for elsewhere, dialogs, errors, where it went."""

    def __init__(self, browser):
        self.far: set[str] = set()
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self.went: list[str] = []
        self.context = browser.new_context()
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.on("dialog", self._dialog)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("websocket", lambda socket: self._is_here(socket.url))
        self.page.on("framenavigated", lambda frame: self.went.append(frame.url))

    def _is_here(self, address: str) -> bool:
        if not (here := address.startswith(HERE)):
            self.far.add(address)
        return here

    def _route(self, route) -> None:
        if self._is_here(route.request.url):
            route.continue_()
        else:
            route.abort()

    def _dialog(self, dialog) -> None:
        self.dialogs.append(dialog.message)
        if dialog.type == "beforeunload":
            dialog.accept()
        else:
            dialog.dismiss()

    def _console(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, address: str):
        """Gives the page once it has loaded and asks for nothing more."""
        self.page.goto(address, wait_until="networkidle")
        return self.page
