"""A notebook small enough to grade in a second or two, and submissions to it."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.classroom import sandbox

UNIT = "01_mini"


def _no_sandbox() -> str | None:
    """Why none can be made here; None where one can."""
    try:
        sandbox.check()
    except RuntimeError as reason:
        return str(reason)
    return None


needs_bwrap = pytest.mark.skipif(_no_sandbox() is not None, reason=_no_sandbox() or "")
RIGHT = {"answer-1": "def double(x):\n    return x + x", "answer-2": "half = 1 / 2", "answer-3": "Because."}
HIDDEN = """\
### BEGIN HIDDEN TESTS
_secret_oracle = [6, -2, 0]
assert [double(3), double(-1), double(0)] == _secret_oracle
### END HIDDEN TESTS"""


def cell(kind, source: str, grade_id: str, **changes) -> NotebookNode:
    """A cell with nbgrader's metadata."""
    made = kind(source)
    made.metadata.nbgrader = dict(grade=False, solution=False, locked=True, task=False, schema_version=3, grade_id=grade_id)
    made.metadata.nbgrader |= dict(cell_type=made.cell_type) | changes
    return made


def answer(source: str, grade_id: str) -> NotebookNode:
    made = cell(new_code_cell, source, grade_id, solution=True, locked=False)
    made.metadata.jupyter = dict(source_hidden=True)
    made.outputs = [nbformat.v4.new_output("stream", name="stdout", text="what the solution printed")]
    return made


def test(source: str, grade_id: str, points: int) -> NotebookNode:
    return cell(new_code_cell, source, grade_id, grade=True, points=points)


def mini() -> NotebookNode:
    """The instructor's notebook: two autograded exercises of 5 points, and one of 10 for a person."""
    setup = new_code_cell("import numpy as np\n\nfrom course_lib import scale", metadata=dict(tags=["setup"]))
    cells = [
        new_markdown_cell("# Mini"),
        setup,
        new_code_cell("factor = 2\nraise SystemError('the lesson need not run')"),
        new_code_cell("helper = factor"),
        cell(new_markdown_cell, "### Exercise 1\nWrite `double(x)`.", "task-1"),
        answer("def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION", "answer-1"),
        test("assert double(2) == 4, 'twice'", "test-1-visible", 2),
        test(HIDDEN, "test-1-hidden", 3),
        cell(new_markdown_cell, "### Exercise 2\nSet `half`.", "task-2"),
        answer("half = None\n### BEGIN SOLUTION\nhalf = 0.5\n### END SOLUTION", "answer-2"),
        test("### BEGIN HIDDEN TESTS\nassert half == 0.5, half\n### END HIDDEN TESTS", "test-2-hidden", 5),
        cell(new_markdown_cell, "### Exercise 3\nWhy?", "task-3"),
        cell(new_markdown_cell, "The model answer in words.", "answer-3", grade=True, solution=True, locked=False, points=10),
    ]
    kernel = dict(name="python3", display_name="Python 3", language="python")
    return new_notebook(cells=cells, metadata=dict(kernelspec=kernel))


def by_id(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}


def submission(
    answers: dict[str, str] | None = None, extra: str | None = None, master: NotebookNode | None = None
) -> NotebookNode:
    """What a student hands in: the release with answers in it, and perhaps a cell of their own above the first exercise."""
    notebook = mini()
    for name, found in by_id(notebook).items():
        if name.endswith("-hidden"):
            found.source = ""
        if name.startswith("answer"):
            found.source, found.outputs = {**RIGHT, **(answers or {})}[name], []
            found.metadata.pop("jupyter", None)
    if extra is not None:
        notebook.cells.insert(4, new_code_cell(extra))
    return notebook


def write(notebook: NotebookNode, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
