"""Each notebook as a student runs it: their own copy, in JupyterLab, at smoke scale."""

import pytest

from course_lib.desk.copies import HERE
from tests.browser.lab import BROKEN, window
from tests.lab_server import copy_course, lab_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # a busy machine needs minutes for a notebook
ERROR, WARNING = "application/vnd.jupyter.error", "application/vnd.jupyter.stderr"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with lab_server(copy_course(tmp_path_factory.mktemp("the course"))) as started:
        yield started


@pytest.fixture(scope="module", params=HERE.units())
def notebook(request, browser, server):
    """A notebook of which all cells were run."""
    with window(browser, server) as lab:
        opened = lab.open(f"work/{request.param}.ipynb")
        opened.run_all()
        yield opened


def test_it_runs_up_to_the_first_exercise(notebook):
    cells, count = notebook.cells(), notebook.names("code").index("test-1-visible") + 1
    numbers = [cell["number"] for cell in cells]  # none in front of a cell whose source is folded
    assert all(number in (place, None) for place, number in enumerate(numbers[:count], start=1)) and not any(numbers[count:])
    assert numbers[count - 1] == count and cells[count - 1]["text"] == "Exercise 1 has no answer yet.\n"
    assert [cell for cell in cells[:count] if ERROR in cell["kinds"]] == []


def test_each_picture_has_a_text(notebook):
    texts = notebook.alts()
    assert texts and all(text and text.strip() for text in texts)


def test_the_panel_answers(notebook, record_property):
    notebook.show("panel")
    assert notebook.cell("panel").locator(f"[data-mime-type='{WARNING}']").count() == 0
    seconds = dict(notebook.moves())
    assert seconds
    told = ", ".join(f"{label} {taken:.1f} s" for label, taken in seconds.items())
    record_property(f"{notebook.file.stem}, until the panel answers", told)


def test_nothing_went_wrong_or_elsewhere(notebook):
    assert (notebook.lab.errors, notebook.lab.far, notebook.lab.dialogs) == ([], set(), [])
    assert not BROKEN.search(notebook.box.inner_text())
