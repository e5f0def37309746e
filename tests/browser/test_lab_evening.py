"""A student's first evening with the course, and the next: notebook 02 from the start page to the first points.

What is seen on the way is checked by the tests; ten pictures of it are left in build/browser/film.
"""

import subprocess
from types import SimpleNamespace

import pytest

from course_lib.classroom import cells
from course_lib.desk.copies import HERE, trusted
from course_lib.notebook.panels import HOW_TO_PLAY
from tests.browser.lab import BROKEN, BUILD, window
from tests.lab_server import copy_course, lab_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # a busy machine needs minutes for a notebook
UNIT, TITLE = "02_weight_pruning", "02 · Learning both weights and connections"
WRONG = "def n_of_m_mask(weight, n, m):\n    return torch.ones_like(weight, dtype=torch.bool)"


def right_answer() -> str:
    """The model answer."""
    (cell,) = [cell for cell in trusted(HERE.original(UNIT)).cells if cells.grade_id(cell) == "answer-1"]
    return "\n".join(line for line in cell.source.splitlines() if "### " not in line)


def git(place, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the course, of which git would see each change that is not the reader's own."""
    place = copy_course(tmp_path_factory.mktemp("the course"))
    ignored = (HERE.notebooks.parent / ".gitignore").read_text(encoding="utf-8")
    (place / ".gitignore").write_text(f"{ignored}\n/home/\n/log\n", encoding="utf-8")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "before"]):
        git(place, *arguments)
    return place


@pytest.fixture(scope="module")
def film():
    """Takes the next picture of the film."""
    folder, names = BUILD / "film", iter(range(1, 100))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    return lambda lab, name: lab.page.screenshot(path=folder / f"{next(names):02} {name}.png")


@pytest.fixture(scope="module")
def first_evening(browser, place, film):
    """What is seen from the start page to the first points."""
    seen = SimpleNamespace()
    with lab_server(place) as server, window(browser, server) as lab:
        lab.start()
        film(lab, "the start page")
        notebook = lab.follow(TITLE)
        film(lab, "the notebook opens")
        _read(notebook, film, seen)
        _solve(notebook, film, seen)
        seen.lab, seen.text = lab, notebook.box.inner_text()
        notebook.save()
        lab.menu("File", "Close Tab")
    return seen


def _read(notebook, film, seen) -> None:
    notebook.run_all()
    for name, picture in (("setup", "the set-up has run"), ("scan-small", "a figure"), ("panel", "the panel")):
        notebook.show(name)
        film(notebook.lab, picture)
    seen.seconds = dict(notebook.moves())
    film(notebook.lab, "the panel, moved")


def _solve(notebook, film, seen) -> None:
    notebook.show("task-1")
    film(notebook.lab, "an exercise without an answer")
    seen.empty = notebook.run("test-1-refuses")
    for name, answer in (("wrong", WRONG), ("right", right_answer())):
        notebook.write("answer-1", answer)
        setattr(seen, name, notebook.run("test-1-refuses"))
        notebook.show("answer-1")
        film(notebook.lab, f"a {name} answer")


@pytest.fixture(scope="module")
def next_evening(browser, place, film, first_evening):
    """What is seen when another server has been started."""
    with lab_server(place) as server, window(browser, server) as lab:
        lab.start()
        page = lab.page.locator(".jp-MarkdownViewer").inner_text()
        film(lab, "the next evening")
        notebook = lab.follow(TITLE)
        notebook.show("panel")
        yield SimpleNamespace(lab=lab, notebook=notebook, page=page)


def test_an_exercise_without_an_answer_says_so(first_evening):
    assert "Exercise 1 has no answer yet." in first_evening.empty


def test_a_wrong_answer_shows_a_case(first_evening):
    assert "0 of 6 points" in first_evening.wrong
    assert all(word in first_evening.wrong for word in ("case:", "got:", "expected:"))


def test_a_right_answer_wins_its_points(first_evening):
    assert "6 of 6 points" in first_evening.right and "failed" not in first_evening.right


def test_nobody_saw_a_traceback(first_evening):
    assert "Traceback" not in first_evening.text


def test_the_panel_moved(first_evening):
    assert list(first_evening.seconds)


def test_the_next_evening_begins_where_the_first_ended(next_evening):
    assert "1 of 4 answers written" in next_evening.page and "6 of 16" in next_evening.page


def test_a_notebook_opens_without_its_widgets_and_without_errors(next_evening):
    panel, text = next_evening.notebook.cell("panel"), next_evening.notebook.box.inner_text()
    assert panel.locator("img").get_attribute("alt").startswith("Panel at")
    assert HOW_TO_PLAY in panel.inner_text() and not BROKEN.search(text)
    assert all(next_evening.notebook.alts())


def test_nothing_went_wrong_or_elsewhere(first_evening, next_evening):
    for lab in (first_evening.lab, next_evening.lab):
        assert (lab.errors, lab.far) == ([], set())


def test_the_course_is_as_it_was(next_evening, place):
    assert git(place, "status", "--porcelain") == ""


def test_the_film_has_ten_pictures(next_evening, film):
    assert len(list((BUILD / "film").glob("*.png"))) == 10
