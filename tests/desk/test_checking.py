"""Checks of an answer, in a running notebook and in a file: obstacles are named, points are those of the grader."""

import signal
import time

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.commands import reader
from course_lib.desk import checking, copies, filed, live
from course_lib.desk.copies import Desk
from course_lib.files import ROOT
from tests import exercises
from tests.classroom.mini import RIGHT, UNIT, by_id, mini, submission, write

SET_UP = "import numpy as np\n\nfrom course_lib import scale"
EMPTY = 'def double(x):\n    raise NotImplementedError("Exercise 1 has no answer yet")'


def checked(number: int, *history: str) -> checking.Report:
    """The report of an exercise of the small notebook after these cells were run."""
    names: dict = {}
    for source in history:
        try:
            exec(source, names)
        except NotImplementedError:  # as in a notebook, the session goes on
            continue
    return live.check(checking.exercises(mini())[number], mini(), names, history, lambda: None)


def test_the_exercises_of_a_notebook():
    known = checking.exercises(mini())
    assert {number: (one.title, one.possible, one.names()) for number, one in known.items()} == {
        1: ("", 5, {"double"}), 2: ("", 5, {"half"}), 3: ("", 0, set()),
    }  # fmt: skip
    titles = {one.title for one in checking.exercises(copies.trusted(exercises.NOTEBOOKS / "02_weight_pruning.ipynb")).values()}
    assert all(titles) and not any("Exercise" in title or "points" in title for title in titles)


@pytest.mark.parametrize(
    ("number", "history", "note"),
    [
        (1, [RIGHT["answer-1"]], ""),  # what the tests do not use need not be there
        (1, [SET_UP], "Run the cell with your answer to exercise 1 first; it is to define double."),
        (1, [SET_UP, EMPTY], "Exercise 1 has no answer yet."),
        (1, [SET_UP, RIGHT["answer-1"], EMPTY], "Exercise 1 has no answer yet."),
        (2, [SET_UP, 'half = None\nraise NotImplementedError("Exercise 2 has no answer yet")'], "Exercise 2 has no answer yet."),
        (3, [SET_UP], "A person reads this answer, and there is no test to run. The original has a model answer, folded away."),
    ],
)
def test_what_stands_in_the_way_is_told(number, history, note):
    report = checked(number, *history)
    assert report.note == note and (report.won > 0) == (note == "")


def test_a_test_before_the_set_up():
    master = mini()
    by_id(master)["test-1-visible"].source = "assert np.equal(double(2), 4)"
    report = live.check(checking.exercises(master)[1], master, dict(double=abs), [], lambda: None)
    assert report.note == "Run the set-up cells at the top of the notebook first; they define np."


def test_a_wrong_answer_shows_the_smallest_case_and_not_the_test():
    report = checked(1, SET_UP, "def double(x):\n    return abs(2 * x)")
    assert report.heading().endswith("2 of 5 points")
    text = "\n".join(report.lines())
    assert "passed  2 points, visible test" in text and "failed  3 points, hidden test" in text
    assert "expected: [6, -2, 0]" in text and "oracle" not in text and "assert" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_hidden_tests_that_are_not_there_give_no_points(tmp_path):
    """An instructor may put release copies in place of the originals."""
    master = mini()
    for name, cell in by_id(master).items():
        if name.endswith("-hidden"):
            cell.source = ""
    one = checking.exercises(master)[1]
    assert (one.possible, one.withheld) == (2, 3)
    report = live.check(one, master, dict(double=lambda x: 2 * x), [], lambda: None)
    assert report.won == 2
    assert report.remarks() == ["3 more points are decided by hidden tests that are not in this checkout."]


def test_a_loop_without_an_end_is_stopped(monkeypatch):
    monkeypatch.setattr(live, "SECONDS", 0.2)
    report = checked(1, SET_UP, "def double(x):\n    while True:\n        pass")
    assert "stopped after 0.2 s" in report.note and report.won == 0 and len(report.tried) == 2


def test_a_loop_is_stopped_where_the_process_ignores_interrupts(monkeypatch):
    """A shell starts commands in its background so."""
    monkeypatch.setattr(live, "SECONDS", 0.2)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        report = checked(1, SET_UP, "def double(x):\n    while True:\n        pass")
        assert "stopped after 0.2 s" in report.note and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_readers_own_interrupt_is_not_taken_for_the_limit():
    with pytest.raises(KeyboardInterrupt):
        checked(1, SET_UP, "def double(x):\n    raise KeyboardInterrupt")


def test_a_file_is_checked_as_the_grader_would():
    """Right, wrong and empty answers in one copy; the second exercise's tests are those of the original."""
    copy = submission({"answer-1": "def double(x):\n    return abs(2 * x)", "answer-2": "half = 0.5"})
    by_id(copy)["test-1-visible"].source = "assert True"
    by_id(copy)["answer-3"].source = ""
    tested = []
    reports = filed.check(mini(), copy, seconds=200, tested=lambda: tested.append(time.monotonic()))
    assert [(one.won, one.note) for one in reports] == [(2, ""), (5, ""), (0, "Exercise 3 has no answer yet.")]
    assert len(tested) == 3 and "expected: [6, -2, 0]" in "\n".join(reports[0].lines())


def test_an_answer_that_does_not_run_and_one_that_is_written_for_a_person():
    reports = filed.check(mini(), submission({"answer-1": "def double(x:", "answer-2": ""}), seconds=200)
    assert reports[0].won == 0 and reports[0].note.startswith("Your answer ends in SyntaxError")
    assert "a person reads it" in reports[2].note


def test_nothing_is_started_where_there_is_no_answer(monkeypatch):
    monkeypatch.setattr(filed.examine, "examine", lambda *_, **__: pytest.fail("started kernels"))
    copy = submission(dict.fromkeys(RIGHT, ""))
    assert [one.note for one in filed.check(mini(), copy, seconds=60)] == [f"Exercise {i} has no answer yet." for i in (1, 2, 3)]


def test_the_command_prints_and_notes_the_points(tmp_path, capsys):
    desk = Desk(tmp_path / "notebooks", tmp_path / "work")
    write(mini(), desk.original(UNIT))
    with pytest.raises(ValueError, match="there is no .*01_mini.ipynb yet; `python -m course_lib work` makes it"):
        reader.check("01", 60, desk)
    list(copies.update(desk))
    assert reader.check("01", 60, desk) == 0
    assert "0 of 10 points by tests, at smoke scale" in capsys.readouterr().out and copies.points(desk) == {}
    write(submission(), desk.copy(UNIT))
    assert reader.check("01", 200, desk) == 0
    assert "10 of 10 points by tests" in capsys.readouterr().out
    assert copies.points(desk) == {UNIT: {"1": [5, 5], "2": [5, 5]}}
    assert "10 of 10" in (desk.work / "Start here.md").read_text()
    desk.copy(UNIT).write_text("{")
    with pytest.raises(ValueError, match="is no notebook"):
        reader.check("01", 60, desk)


WRONG = exercises.reference("02_weight_pruning", 1).replace("weight.abs()", "weight")
ELSEWHERE = """\
from pathlib import Path
from course_lib.desk import copies
copies.HERE = copies.Desk(copies.NOTEBOOKS, Path({work!r}))
"""


def test_in_a_notebook(tmp_path, monkeypatch):
    """A reader's session: check too early, answer nothing, wrongly, rightly; nothing is shown in red, points are noted."""
    unit = "02_weight_pruning"
    master = copies.trusted(exercises.NOTEBOOKS / f"{unit}.ipynb")
    set_up = [cell.source for cell in master.cells if "setup" in cell.metadata.get("tags", [])]
    desk = Desk(work=tmp_path / "work")
    list(copies.update(desk, "02"))
    stub = by_id(copies.read(desk.copy(unit)))["answer-1"].source
    session = [
        ELSEWHERE.format(work=str(desk.work)), "from course_lib.notebook import check", 'check("exercise-1")', *set_up,
        'check("exercise-1")', stub, 'check("exercise-1")', "torch.manual_seed(0); first = torch.rand(1)", WRONG,
        'torch.manual_seed(0); check("exercise-1"); assert torch.equal(torch.rand(1), first)',
        exercises.reference(unit, 1), 'check("exercise-1")', 'check("exercise-9")', 'check("exercise-4")',
    ]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    notebook = new_notebook(cells=[new_code_cell(source) for source in session])
    NotebookClient(notebook, kernel_name="python3", resources=dict(metadata=dict(path=str(tmp_path))), timeout=200).execute()
    shown = [out.data["text/plain"] for cell in notebook.cells for out in cell.outputs if out.output_type == "display_data"]
    assert not any("<progress" in text for out in notebook.cells for text in map(str, out.outputs))
    too_early, no_answer_cell, empty, wrong, right, unknown, by_a_person = [text for text in shown if "STAND-IN" not in text]
    assert too_early == "Run the set-up cells at the top of the notebook first."
    assert "Run the cell with your answer to exercise 1 first; it is to define n_of_m_mask." in no_answer_cell
    assert "Exercise 1 has no answer yet." in empty
    assert "1 of 6 points" in wrong and all(word in wrong for word in ("case:", "got:", "expected:"))
    assert right.splitlines()[0].endswith("6 of 6 points") and "failed" not in right
    assert '"exercise-1", "exercise-2"' in unknown and "A person reads this" in by_a_person
    assert copies.points(desk)[unit] == {"1": [6, 6]}


def test_an_empty_answer_ends_in_a_sentence(tmp_path, monkeypatch):
    """The tests that a reader sees call the answer directly, and another NotImplementedError keeps its traceback."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    session = ["from course_lib.notebook import start\nenv = start()", EMPTY, "double(2)", "raise NotImplementedError('other')"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in session])
    NotebookClient(
        notebook, kernel_name="python3", resources=dict(metadata=dict(path=str(tmp_path))), timeout=200, allow_errors=True
    ).execute()
    *_, used, other = notebook.cells
    assert [out.text for out in used.outputs] == ["Exercise 1 has no answer yet.\n"]
    assert other.outputs[0].output_type == "error" and other.outputs[0].evalue == "other"
