"""What is taken from a submission, and which of its cells run."""

import copy
import json

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.classroom import cells, collect
from tests import exercises
from tests.classroom.mini import HIDDEN, RIGHT, by_id, mini, submission


@given(st.permutations(range(13)), st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)))
def test_tests_are_the_instructors_whatever_was_done_to_the_cells(order, dropped, doubled, rewritten):
    handed_in, master = submission(), mini()
    for i in rewritten:
        handed_in.cells[i].source = "pass"
        if "nbgrader" in handed_in.cells[i].metadata:
            handed_in.cells[i].metadata.nbgrader |= dict(points=1000, grade=False, locked=False, solution=True)
    handed_in.cells = [handed_in.cells[i] for i in order if i not in dropped] + [
        copy.deepcopy(handed_in.cells[i]) for i in doubled
    ]
    merged, changes = cells.merge(master, handed_in)
    originals = by_id(master)
    found = [cell for cell in merged.cells if cells.grade_id(cell)]
    assert sorted(map(cells.grade_id, found)) == sorted(originals)
    for cell in found:
        original = originals[cells.grade_id(cell)]
        assert cell.metadata.nbgrader == original.metadata.nbgrader and cell.cell_type == original.cell_type
        if not original.metadata.nbgrader.solution:
            assert cell.source == original.source
        else:
            assert cell.source in (RIGHT[cells.grade_id(cell)], "pass", "")  # never the model answer
    assert not any(cell.get("outputs") for cell in merged.cells)
    count = {i: (i not in dropped) + (i in doubled) for i, cell in enumerate(master.cells) if cells.grade_id(cell)}
    fixed = {i for i in count if not master.cells[i].metadata.nbgrader.solution}
    assert bool(changes) == any(n != 1 or i in fixed & rewritten for i, n in count.items())


def test_an_untouched_submission_has_no_changes_and_changes_are_named():
    assert cells.merge(mini(), submission())[1] == []
    assert cells.merge(mini(), mini())[1] == []
    handed_in = submission()
    by_id(handed_in)["test-1-visible"].source = "assert True"
    handed_in.cells.remove(by_id(handed_in)["test-2-hidden"])
    assert cells.merge(mini(), handed_in)[1] == ["test-1-visible was changed", "test-2-hidden was missing"]


def test_only_what_answers_need_is_run():
    def run(**changes):
        handed_in = submission(**changes)
        merged, _ = cells.merge(mini(), handed_in)
        return [merged.cells[i].source for i in cells.wanted(mini(), merged)]

    setup, factor, helper = (cell.source for cell in mini().cells[1:4])
    assert run() == [setup, RIGHT["answer-1"], RIGHT["answer-2"]]
    assert run(answers={"answer-2": "half = helper / 4"}) == [setup, factor, helper, RIGHT["answer-1"], "half = helper / 4"]
    deferred = "def double(x):\n    return factor * x"
    assert run(answers={"answer-1": deferred})[:2] == [setup, factor]
    assert run(answers={"answer-1": "def double(x):\n    factor = 2\n    return factor * x"})[1] != factor
    assert run(extra="import math\nmath.pi")[1] == "import math\nmath.pi"  # a student's own cell always runs
    merged, _ = cells.merge(mini(), submission())
    assert len(cells.wanted(mini(), merged, everything=True)) == 5


@pytest.mark.parametrize(
    ("source", "needed", "defined"),
    [
        ("x = y + 1", {"y"}, {"x"}),
        ("x += 1", {"x"}, {"x"}),
        ("x = 1\nz = x", set(), {"x", "z"}),
        ("def f(a, b=c):\n    d = a\n    return d + e", {"c", "e"}, {"f"}),
        ("[i * k for i in r]", {"k", "r"}, set()),
        ("import a.b as c, d\nfrom e import f", set(), {"c", "d", "f"}),
        ("t['a'].b = v", {"t", "v"}, {"t"}),
        ("for i in n:\n    s = i", {"n"}, {"i", "s"}),
        ("%timeit f(x)\ny = 1", {"get_ipython"}, {"y"}),
        ("def broken(:", set(), set()),
        ("\0", set(), set()),
    ],
)
def test_the_names_of_a_cell(source, needed, defined):
    assert cells.names(source) == (needed, defined)


@pytest.mark.parametrize("notebook", sorted(path.stem for path in exercises.NOTEBOOKS.glob("*.ipynb")))
def test_answers_to_the_courses_notebooks_need_no_lesson_cell(notebook):
    """So that grading takes seconds: the model answers run with the set-up alone."""
    master = exercises._notebook(notebook)
    merged, changes = cells.merge(master, master)
    run = [merged.cells[i] for i in cells.wanted(master, merged)]
    assert all(cells.is_setup(cell) or cells.grade_id(cell) for cell in run) and changes == []
    assert cells.likeness(master, master) == 1


def test_the_names_that_answers_define():
    assert cells.answer_names(mini()) == ["double", "half"]


def test_strange_cells_do_no_harm():
    handed_in = submission()
    raw = json.loads(nbformat.writes(handed_in))
    raw["cells"][:0] = [
        dict(cell_type="code", source=["1"], metadata=dict(nbgrader="yes", tags="setup")),
        dict(cell_type="code", source="2", metadata=dict(nbgrader=dict(grade_id=["a"]), tags=[1, None]), outputs="none", x=1),
        dict(cell_type="markdown", source="3", metadata=dict(nbgrader=dict(grade_id="test-9-hidden", grade=True, points=99))),
    ]
    handed_in = collect.read(json.dumps(raw).encode())
    merged, changes = cells.merge(mini(), handed_in)
    assert [cell.source for cell in merged.cells[:3]] == ["1", "2", "3"] and changes == []
    assert not any(cells.grade_id(cell) for cell in merged.cells[:3])
    assert HIDDEN in [cell.source for cell in merged.cells]


@pytest.mark.parametrize(
    "source",
    [HIDDEN, f"a = 1\n{HIDDEN}\nb = 2", f"{HIDDEN}\n{HIDDEN}\n", "a = 1", "  # BEGIN HIDDEN TESTS x\n# END HIDDEN TESTS"],
)
def test_hidden_tests_are_taken_out_as_nbgrader_does(source):
    """nbgrader is the reference: it makes the students' copies."""
    from nbgrader.preprocessors import ClearHiddenTests

    cell = by_id(mini())["test-1-hidden"]
    cell.source = source
    found = cells.released(cell)
    assert found.strip() == ClearHiddenTests().preprocess_cell(cell, {}, 0)[0].source.strip()


def test_looking_at_cells_does_not_import_nbgrader():
    """Each submission has a process of its own, so an import of two seconds would count as often as there are submissions."""
    import subprocess
    import sys

    loaded = "import sys, course_lib.classroom.apart; sys.exit('nbgrader' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True, timeout=60)
