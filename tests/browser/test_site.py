"""The website that `make book` has built, in a real browser without a network: on a screen and on a phone, light and dark."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from course_lib.desk.copies import HERE
from course_lib.files import ROOT
from tests.browser.chromium import Visit

BOOK = ROOT / "build" / "book"
NOTEBOOKS = [f"notebooks/{unit}.html" for unit in HERE.units()]
READ = ["index.html", "notebooks/INSTRUCTORS.html", "notebooks/SAMPLE_CLASS.html", "data/challenge/README.html", *NOTEBOOKS]
WIDE, PHONE = (1280, 800), (390, 844)
SERIOUS = {"serious", "critical"}
# What a page does that makes its width, not what scrolls inside it
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNRENDERED = """
() => [...document.querySelectorAll('span.math, div.math')].filter(one => !one.querySelector('mjx-container')).length
"""
OTHER = "([readout, before]) => readout.innerText !== before"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (BOOK / "index.html").is_file(), reason="there is no build/book: run `make book` first"),
]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(BOOK))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def visiting(browser, size: tuple[int, int], scheme: str) -> Iterator[Visit]:
    visit = Visit(browser)
    visit.page.set_default_timeout(120_000)
    visit.page.set_viewport_size({"width": size[0], "height": size[1]})
    visit.page.emulate_media(color_scheme=scheme)
    try:
        yield visit
    finally:
        visit.context.close()


def problems(visit: Visit, address: str, page: str) -> list[str]:
    """What is wrong with a page that was opened, in words."""
    visit.errors.clear()
    visit.far.clear()
    opened = visit.open(f"{address}/{page}")
    found = [f"console: {error}" for error in visit.errors] + [f"asks for {far}" for far in visit.far]
    if (over := opened.evaluate(OVERFLOW)) > 0:
        found.append(f"{over} pixels wider than the window")
    opened.wait_for_function(f"() => ({UNRENDERED})() === 0")
    return [f"{page}: {one}" for one in found]


def inaccessible(visit: Visit, page: str) -> list[str]:
    """Serious and critical violations that axe finds in the page that is open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # Without preload: axe would fetch style sheets once more, which counts as a request of the page
    found = axe.Axe().run(visit.page, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    return [
        f"{page}: {one['id']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])})" for one in found if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_pages_that_are_read_show_whole_and_ask_for_nothing_elsewhere(browser, site, size, scheme):
    with visiting(browser, size, scheme) as visit:
        assert [problem for page in READ for problem in problems(visit, site, page)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_that_are_read_are_accessible(browser, site, scheme):
    with visiting(browser, WIDE, scheme) as visit:
        found = []
        for page in READ:
            visit.open(f"{site}/{page}")
            found += inaccessible(visit, page)
        assert found == []


def test_every_other_page_shows_whole_on_a_phone(browser, site):
    others = sorted({path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html")} - set(READ))
    others = [page for page in others if not page.startswith("_static/")]
    assert len(others) > 100
    with visiting(browser, PHONE, "dark") as visit:
        assert [problem for page in others for problem in problems(visit, site, page)] == []


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_panel_answers_and_solutions_are_folded(browser, site, page):
    with visiting(browser, WIDE, "light") as visit:
        opened = visit.open(f"{site}/{page}")
        shown = "all => all.filter(one => one.checkVisibility() && one.innerText.includes('### BEGIN')).length"
        assert opened.eval_on_selector_all("pre", shown) == 0
        panel = opened.locator(".course-readout").first.locator("xpath=..")
        readout, goal = (panel.locator(name) for name in (".course-readout", ".course-goal"))
        before = readout.inner_text()
        assert "Goal:" in goal.inner_text() and "in 1 try" in goal.inner_text() and "not measured" not in before
        control = panel.locator(".course-control", has=opened.locator(":enabled")).first
        if (choice := control.locator("select")).count():
            choice.select_option(index=1 - choice.evaluate("one => Math.min(1, one.selectedIndex)"))
        else:
            slider = control.locator("input")
            slider.focus()
            for _ in range(3):
                slider.press("ArrowRight" if slider.evaluate("one => one.value !== one.max") else "ArrowLeft")
        opened.wait_for_function(OTHER, arg=[readout.element_handle(), before])
        assert "tries" in goal.inner_text()
        assert opened.locator("img[alt^='Panel at']").count() == 1 and visit.errors == []
