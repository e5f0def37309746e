"""The first minute: the page on which JupyterLab opens, and where its links lead."""

import re

import pytest

from course_lib.desk import start_page
from course_lib.desk.copies import HERE
from tests.browser.lab import window
from tests.lab_server import copy_course, lab_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # a busy machine needs minutes for a notebook
MENUS = ["File", "Edit", "View", "Run", "Kernel", "Tabs", "Settings", "Help"]
LINKS = {start_page.state(HERE, unit).title: unit for unit in HERE.units()}


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """A window that shows the start page."""
    with lab_server(copy_course(tmp_path_factory.mktemp("the course"))) as server, window(browser, server) as opened:
        opened.start()
        yield opened


def test_the_start_page_opens_rendered_and_names_are_whole(lab):
    assert lab.page.locator(".jp-MarkdownViewer table").count() == 1
    cut = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.textContent)"
    names = lab.page.locator(".jp-DirListing-itemText")
    assert set(names.all_text_contents()) == {f"{unit}.ipynb" for unit in HERE.units()} | {start_page.NAME}
    assert names.evaluate_all(cut) == []


def test_nothing_is_there_for_instructors(lab):
    assert lab.page.get_by_role("menubar").get_by_role("menuitem").all_inner_texts() == MENUS
    labels = lab.page.locator("[title], [aria-label]").evaluate_all("all => all.map(one => one.title + one.ariaLabel)")
    shown = lab.page.locator("body").inner_text() + " ".join(labels)
    assert "File Browser" in shown and not re.search(r"nbgrader|assignment|formgrader", shown, re.IGNORECASE)


@pytest.mark.parametrize("title", LINKS)
def test_a_link_opens_the_notebook_that_it_names(lab, title):
    notebook = lab.follow(title)
    assert notebook.file.stem == LINKS[title]
    assert notebook.box.locator("h1").first.inner_text().startswith(title)
    lab.menu("File", "Close Tab")
    lab.page.locator(".jp-MarkdownViewer h1").wait_for()  # without a question whether to save what nobody wrote


def test_nothing_went_wrong_or_elsewhere(lab):
    assert (lab.errors, lab.far, lab.dialogs) == ([], set(), [])
