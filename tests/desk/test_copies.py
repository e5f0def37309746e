"""The folder of a reader's copies: what is handed out, what an update does to it, and the page that tells where one is."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from course_lib.classroom import cells, release
from course_lib.commands import reader
from course_lib.desk import copies, handout, start_page
from course_lib.desk.copies import Desk
from course_lib.files import ROOT
from tests import exercises
from tests.classroom.mini import UNIT, by_id, mini, write


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Copies of the course's own notebooks, in a folder beside them as `work` is."""
    place = tmp_path_factory.mktemp("a course")
    (place / "notebooks").symlink_to(ROOT / "notebooks")
    for name in ("data", "README.md", "CONTRIBUTING.md", "course_lib"):
        (place / name).symlink_to(ROOT / name)
    desk = Desk(place / "notebooks", place / "work")
    assert all(line.endswith("a new copy") for line in copies.update(desk))
    return desk


UNITS = [path.stem for path in sorted(exercises.NOTEBOOKS.glob("*.ipynb"))]


@pytest.mark.parametrize("unit", UNITS)
def test_a_copy_shows_no_answer_no_hidden_test_and_no_output(course, unit):
    master, made = (nbformat.read(path, as_version=4) for path in (course.original(unit), course.copy(unit)))
    assert [leak for leak in release.leaks(master, made) if "is folded" not in leak] == []
    for name, cell in by_id(master).items():
        copied = by_id(made)[name]
        if cells.is_answer(cell) and cell.cell_type == "code":
            number = name.split("-")[1]
            assert copied.source.endswith(f'raise NotImplementedError("Exercise {number} has no answer yet")')
            assert copied.source.split("\n")[0] == cell.source.split("\n")[0]  # the prompt
        elif cells.is_test(cell) and "HIDDEN" not in cell.source:
            assert copied.source == cell.source
        elif cells.is_test(cell):
            assert f"decides {cell.metadata.nbgrader.points:g} of the " in copied.source
    text = "\n".join(cell.source for cell in made.cells)
    numbers = sorted({int(name.split("-")[1]) for name, cell in by_id(master).items() if "HIDDEN" in cell.source})
    assert [int(number) for number in re.findall(r'check\("exercise-(\d+)"\)', text)] == numbers
    assert "answers are folded away;" not in text


def markdown(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("unit", [*UNITS, "Start here"])
def test_each_link_leads_to_a_file(course, unit):
    start_page.write(course)
    path = course.work / start_page.NAME if unit == "Start here" else course.copy(unit)
    text = path.read_text() if unit == "Start here" else "\n".join(markdown(path))
    links = [unquote(link) for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("http")]
    assert links and [link for link in links if not (course.work / link).exists()] == []


@pytest.fixture
def desk(tmp_path):
    """A course of one small notebook, whose copies have been made."""
    desk = Desk(tmp_path / "notebooks", tmp_path / "work")
    write(mini(), desk.original(UNIT))
    assert list(copies.update(desk)) == [f"{desk.copy(UNIT)}: a new copy"]
    return desk


def edit(path: Path, place: int | str, source: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    cell = notebook.cells[place] if isinstance(place, int) else by_id(notebook)[place]
    cell.source = source
    nbformat.write(notebook, path)


def test_a_link_to_an_image_or_an_instructors_page_is_rewritten(tmp_path):
    desk, master = Desk(tmp_path / "notebooks", tmp_path / "work"), mini()
    master.cells[0].source = '![a](images/a.png "title") [b](01_mini.ipynb#top) [c](../data/README.md) <img src="images/b.svg">'
    master.cells[0].source += " [d](https://example.org/x) [e](#part) `f[0](x)`"
    write(master, desk.original(UNIT))
    for name in ("notebooks/images/a.png", "notebooks/images/b.svg", "data/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    list(copies.update(desk))
    expected = '![a](../notebooks/images/a.png "title") [b](01_mini.ipynb#top) [c](../data/README.md) '
    expected += '<img src="../notebooks/images/b.svg"> [d](https://example.org/x) [e](#part) `f[0](x)`'
    assert nbformat.read(desk.copy(UNIT), 4).cells[0].source == expected


def test_nothing_is_touched_where_nothing_changed(desk):
    edit(desk.copy(UNIT), "answer-1", "mine")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in desk.work.rglob("*.*") if path.is_file()}
    assert list(copies.update(desk)) == []
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in desk.work.rglob("*.*") if path.is_file()} == before


def test_an_update_tells_what_it_did(desk):
    edit(desk.copy(UNIT), "answer-1", "mine")
    edit(desk.copy(UNIT), "task-1", "my notes")
    edit(desk.original(UNIT), "task-1", "### Exercise 1, better")
    edit(desk.original(UNIT), 0, "# Mini, second edition")
    lines = list(copies.update(desk))
    assert lines[0].endswith(f"{UNIT}.ipynb: 1 cell updated; what you wrote is as you left it")
    assert "you and the course both changed “task-1”; yours stays" in lines[1] and len(lines) == 2
    assert max(map(len, (line.replace(str(desk.notebooks.parent), "") for line in lines))) <= 100
    made = nbformat.read(desk.copy(UNIT), 4)
    assert made.cells[0].source == "# Mini, second edition"
    assert by_id(made)["answer-1"].source == "mine" and by_id(made)["task-1"].source == "my notes"
    assert list(copies.update(desk)) == []


@pytest.mark.parametrize("damage", ["", "{", '{"cells": 3}', "[]", '{"nbformat": 4, "cells": [{"cell_type": "code"}]}'])
def test_a_damaged_copy_is_put_aside(desk, damage):
    for number in (1, 2):
        desk.copy(UNIT).write_text(damage)
        assert "was put aside as" in "\n".join(copies.update(desk))
        assert (desk.work / f"{UNIT}.damaged-{number}.ipynb.txt").read_text() == damage
        assert by_id(copies.read(desk.copy(UNIT)))["answer-1"].source.startswith("def double")


def test_without_the_notes_of_what_was_handed_out_nothing_is_lost(desk):
    edit(desk.copy(UNIT), "answer-1", "mine")
    edit(desk.original(UNIT), 0, "# Mini, second edition")
    desk.handed_out(UNIT).write_text("{")
    list(copies.update(desk))
    made = nbformat.read(desk.copy(UNIT), 4)
    assert by_id(made)["answer-1"].source == "mine" and made.cells[0].source == "# Mini"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_an_interrupted_update_is_made_again(desk, monkeypatch, writes):
    edit(desk.copy(UNIT), "answer-1", "mine")
    edit(desk.original(UNIT), 0, "# Mini, second edition")
    write_text, left = copies._write_text, [writes]

    def interrupted(text, path):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write_text(text, path)

    monkeypatch.setattr(copies, "_write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(copies.update(desk))
    monkeypatch.undo()
    assert not any("both changed" in line for line in copies.update(desk))
    made = nbformat.read(desk.copy(UNIT), 4)
    assert made.cells[0].source == "# Mini, second edition" and by_id(made)["answer-1"].source == "mine"
    assert list(copies.update(desk)) == []


def test_a_copy_that_is_handed_in_has_no_changed_tests(desk):
    edit(desk.copy(UNIT), "answer-1", "def double(x):\n    return x + x")
    _, changes = cells.merge(mini(), nbformat.read(desk.copy(UNIT), 4))
    assert changes == [] and cells.likeness(mini(), nbformat.read(desk.copy(UNIT), 4)) == 1
    edit(desk.copy(UNIT), "test-1-hidden", "pass")
    assert cells.merge(mini(), nbformat.read(desk.copy(UNIT), 4))[1] == ["test-1-hidden was changed"]


def test_a_release_in_place_of_the_original_can_be_written_in_too(tmp_path):
    """Its hidden tests are blank cells, and its answers have nbgrader's own stub."""
    desk, master = Desk(tmp_path / "notebooks", tmp_path / "work"), mini()
    by_id(master)["test-1-hidden"].source = ""
    by_id(master)["answer-1"].source = "def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    write(master, desk.original(UNIT))
    list(copies.update(desk))
    made = by_id(nbformat.read(desk.copy(UNIT), 4))
    assert made["test-1-hidden"].source.startswith("# A hidden test decides 3 of the 5 points of exercise 1")
    assert handout.is_empty(made["answer-1"].source) and not handout.is_empty("def double(x):\n    return x")


def state(desk: Desk) -> str:
    return start_page.state(desk, UNIT).begun


def test_the_start_page_tells_where_the_reader_is(desk, capsys):
    assert state(desk) == "not opened"
    desk.opened(UNIT).parent.mkdir()
    desk.opened(UNIT).touch()
    assert state(desk) == "opened"
    edit(desk.copy(UNIT), 0, "# Mine")
    assert state(desk) == "begun"
    edit(desk.copy(UNIT), "answer-2", "half = 0.5")
    assert state(desk) == "1 of 3 answers written"
    copies.keep_points(UNIT, 1, 2, 5, desk)
    copies.keep_points(UNIT, 2, 5, 5, desk)
    assert reader.work(desk=desk) == 0
    text = (desk.work / start_page.NAME).read_text()
    assert f"| [Mini]({UNIT}.ipynb) |  | 1 of 3 answers written | 7 of 10 |" in text and "**Go on** with [Mini]" in text
    assert "start here" in capsys.readouterr().out
    desk.points().write_text("{")
    assert "0 of 10" in start_page.write(desk).read_text()


def test_a_notebook_that_is_not_there_is_named(desk):
    with pytest.raises(ValueError, match="begins with '09'; there are 01"):
        list(copies.update(desk, "9"))
    assert replace(desk, work=desk.work).units("1") == [UNIT]


def test_the_committed_files_do_not_hold_the_reader_s(tmp_path):
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "work/" in ignored and copies.HERE.work == ROOT / "work"
    assert json.loads((ROOT / "course_lib/lab/settings/page_config.json").read_text())["disabledExtensions"]
