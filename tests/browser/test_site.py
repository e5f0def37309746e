"""The website in a real browser, without a network: no errors, no scrolling sideways, mathematics, panels, accessibility.

It is built at smoke scale, below build/browser.
"""

import json
import re
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from course_lib.files import ROOT
from tests.browser.chromium import Visit

pytest.importorskip("sphinx", reason="sphinx is not installed: pip install -e .[book]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
from course_lib.book import grids, site  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

SITE = ROOT / "build" / "browser" / "book"
SIZES, THEMES = ((1280, 900), (390, 844)), ("light", "dark")
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
TEXTS = (
    "index",
    "CONTRIBUTING",
    "notebooks/README",
    "notebooks/INSTRUCTORS",
    "course_lib/README",
    "data/README",
    "data/results/README",
)
MODULES = ("library/course_lib", "library/course_lib.methods", "library/course_lib.papers.deep_compression", "search")
EVERY = (*(f"notebooks/{name}" for name in NOTEBOOKS), *TEXTS, *MODULES)
DATA = re.compile(r'<script type="application/json" class="course-data">(.*?)</script>')
READY = "window.MathJax?.startup ? MathJax.startup.promise.then(() => true) : true"
# Keys reach what scrolls by itself, once the theme's script has seen the new size
REACHED = "[...document.querySelectorAll('main pre')].every(one => one.scrollWidth <= one.clientWidth || one.tabIndex === 0)"
# What makes a page scroll sideways: elements that reach beyond the window, and are in no box that scrolls by itself
WIDER = """
() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('main *')].filter(one => {
    for (let box = one; box.tagName !== 'MAIN'; box = box.parentElement)
        if (getComputedStyle(box.parentElement).overflowX !== 'visible' && box.parentElement.tagName !== 'MAIN') return false;
    return one.getBoundingClientRect().right > innerWidth + 1;
}).map(one => one.outerHTML.slice(0, 120))
"""
SHOWS = (
    "([panel, alt]) => panel.querySelector('.course-stage img').alt !== alt && panel.querySelector('.course-stage img').complete"
)


@pytest.fixture(scope="module")
def built() -> Path:
    assert site.command(SITE) == 0
    return SITE


class Page(HTMLParser):
    """The links, names, and what else a page asks for."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.names, self.asked, self.alts = [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.names |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "source", "iframe", "link"):
            self.asked += [found[name] for name in ("src", "href") if found.get(name)]
        if tag == "img":
            self.alts.append(found.get("alt", ""))


@pytest.fixture(scope="module")
def pages(built) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(built.rglob("*.html"))}


def test_the_site_is_small_and_has_a_page_for_each_module(built):
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) <= 20e6
    modules = [path for path in (ROOT / "course_lib").rglob("*.py") if path.stem not in ("__main__", "jupyter_lab_config")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules}
    assert names == {path.stem for path in (built / "library").glob("*.html")}
    assert all((built / f"{page}.html").is_file() for page in EVERY)


def test_nothing_lies_outside_the_site(built, pages):
    far = {asked for page in pages.values() for asked in page.asked if urlsplit(asked).scheme not in ("", "data")}
    for path in (*built.rglob("*.css"), *built.rglob("*.js")):
        text = path.read_text(encoding="utf-8")
        quoted = r"""url\(["']?(https?://[^)]+)""" if path.suffix == ".css" else r"""["'`](https?://[^"'`]+)["'`]"""
        far |= {f"{path.name}: {address}" for address in re.findall(quoted, text) if not address.startswith("http://www.w3.org/")}
    assert far == set()


def test_every_link_within_the_site_leads_somewhere(built, pages):
    dead = []
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            names = pages[target].names if target in pages else set()
            if not target.is_file() or (address.fragment and target in pages and unquote(address.fragment) not in names | {""}):
                dead.append(f"{path.relative_to(built)}: {link}")
    assert dead == []


def test_every_picture_has_a_text_of_its_own(pages):
    for path, page in pages.items():
        assert all(alt.strip() and not re.fullmatch(r"\S+\.(png|svg)", alt) for alt in page.alts), path


def test_answers_and_plumbing_are_folded_and_notebooks_are_offered_without_outputs(built):
    for name in NOTEBOOKS:
        committed = ROOT / "notebooks" / f"{name}.ipynb"
        page = (built / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        cells = nbformat.read(committed, as_version=4).cells
        answers = [cell for cell in cells if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution")]
        folded = "".join(re.findall(r"<details.*?</details>", page, re.DOTALL))
        assert folded.count("### BEGIN SOLUTION") == page.count("### BEGIN SOLUTION") == len(answers) > 0
        assert folded.count("### BEGIN HIDDEN TESTS") == page.count("### BEGIN HIDDEN TESTS") > 0
        offered = nbformat.read(built / "_sources" / "notebooks" / committed.name, as_version=4).cells
        assert [cell.source for cell in offered] == [cell.source for cell in cells]
        assert not any(cell.get("outputs") for cell in offered)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_panel_is_small_and_has_the_goal_of_the_notebook(built, name):
    page = (built / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    panels = [data for data in DATA.findall(page) if '"goal":' in data]
    assert len(panels) == 1 and len(panels[0].encode()) <= grids.LARGEST
    found = json.loads(panels[0])
    for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
        if "panel" in cell.metadata.get("tags", []) and cell.outputs:
            (saved,) = re.findall(r"<p>Goal: (.*?)\.</p>", "".join(output.data.get("text/html", "") for output in cell.outputs))
            assert unescape(saved) == found["goal"]


@pytest.mark.parametrize("name", EVERY)
def test_a_page_in_both_sizes_and_themes(browser, built, name):
    visit = Visit(browser)
    page = visit.open((built / f"{name}.html").as_uri())
    page.wait_for_function(READY)
    folded = page.locator("main details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert folded is None
    rendered = page.evaluate(
        "[document.querySelectorAll('main .math').length, document.querySelectorAll('main mjx-container').length]"
    )
    assert rendered[0] == rendered[1] and page.locator("mjx-merror").count() == 0
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(WIDER) == [], (theme, width)
            page.wait_for_function(REACHED)
            found = axe.Axe().run(page).response["violations"]
            serious = {one["id"]: one["nodes"][0]["html"][:200] for one in found if one["impact"] in ("serious", "critical")}
            assert serious == {}, (theme, width)
    assert (visit.errors, visit.far) == ([], set())
    visit.context.close()


def test_all_pages_of_modules_fit_a_phone_and_the_log_is_empty(browser, built):
    visit = Visit(browser)
    visit.page.set_viewport_size({"width": 390, "height": 844})
    for path in sorted((built / "library").glob("*.html")):
        visit.page.goto(path.as_uri())
        assert visit.page.evaluate(WIDER) == [], path.stem
    assert (visit.errors, visit.far) == ([], set())
    visit.context.close()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_panel_and_a_film_answer(browser, built, name, record_property):
    visit = Visit(browser)
    page = visit.open((built / "notebooks" / f"{name}.html").as_uri())
    seconds = []
    for panel in page.locator(".course-panel").all():
        shown, goal, handle = panel.locator(".course-stage img"), panel.locator(".course-goal"), panel.element_handle()
        tries = 1
        for control in panel.locator("input, select").all():
            if control.is_disabled():
                continue
            before, start = shown.get_attribute("alt"), time.perf_counter()
            if control.evaluate("one => one.tagName") == "SELECT":
                last = control.locator("option").count() - 1
                control.select_option(index=0 if control.evaluate("one => one.selectedIndex") == last else last)
            else:
                control.press("ArrowLeft" if control.evaluate("one => one.value === one.max") else "ArrowRight")
            page.wait_for_function(SHOWS, arg=[handle, before])
            seconds.append(time.perf_counter() - start)
            tries += 1
        if goal.count():
            assert re.search(rf"(in {tries} tries|in \d+ tr(y|ies))\.$", goal.inner_text())
            assert f"{tries} settings tried" in panel.locator("img").last.get_attribute("alt")
        assert shown.evaluate("one => one.naturalWidth") > 0
    record_property(f"{name}: seconds until a panel of the site answers, at most", f"{max(seconds):.2f}")
    assert visit.errors == []
    visit.context.close()


def test_a_film_plays_to_its_end(browser, built):
    visit = Visit(browser)
    panel = visit.open((built / "notebooks" / "01_vector_quantization.html").as_uri()).locator(".course-panel").first
    panel.get_by_role("button", name="Play").click()
    panel.get_by_role("button", name="Stop").wait_for()
    panel.get_by_role("button", name="Play").wait_for()
    last = panel.locator("input").get_attribute("max")
    assert panel.locator("input").input_value() == last
    assert panel.locator("img").get_attribute("alt").startswith(f"Step {int(last) + 1} of {int(last) + 1}:")
    visit.context.close()
