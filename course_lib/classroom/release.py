"""Student copies: without solutions, hidden tests and outputs, and the proof that they are."""

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader import utils

from course_lib.classroom import cells
from course_lib.classroom.gradebook import Course, load
from course_lib.classroom.sandbox import NOTEBOOKS
from course_lib.files import ROOT

BUILD = ROOT / "build"
SECRETS = (("### BEGIN SOLUTION", "### END SOLUTION"), ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"))


def command(only: str | None = None, out: Path = BUILD, notebooks: Path = NOTEBOOKS) -> int:
    """Writes the student copies below `out`/release, and says where; gives the exit status.

    Raises:
        ValueError: no notebook's name begins with `only`.
        RuntimeError: a copy holds what it must not; it is taken away again.
    """
    course = Course(out)
    for unit, master in load(notebooks, only).items():
        copy = course.assign(unit, master)
        if found := leaks(master, nbformat.read(copy, as_version=4)):
            shutil.rmtree(copy.parent)
            raise RuntimeError(f"the student copy of {unit} would hold {len(found)} lines that it must not: {found[:3]}")
        points = sum(cell.metadata.nbgrader.points for cell in master.cells if utils.is_grade(cell))
        print(f"{copy}: {points:g} points")
    return 0


def secrets(master: NotebookNode) -> set[str]:
    """Lines of solutions and hidden tests, stripped, that stand nowhere else in the notebook."""
    hidden: set[str] = set()
    shown: set[str] = set()
    for cell in master.cells:
        inside = cell.cell_type != "code" and utils.is_solution(cell)  # a model answer in words
        for line in cell.source.splitlines():
            inside |= any(begin in line for begin, _ in SECRETS)
            (hidden if inside else shown).add(line.strip())
            inside &= not any(end in line for _, end in SECRETS)
    return {line for line in hidden - shown if len(line) > 3}


def leaks(master: NotebookNode, copy: NotebookNode) -> list[str]:
    """Every line of a student copy that shows a solution or a hidden test, every output, every cell that is folded away."""
    kept = secrets(master)
    found = [line.strip() for cell in copy.cells for line in cell.source.splitlines() if line.strip() in kept]
    found += [mark for cell in copy.cells for pair in SECRETS for mark in pair if mark in cell.source]
    found += [f"an output of cell {i}" for i, cell in enumerate(copy.cells) if cell.get("outputs") or cell.get("attachments")]
    found += [f"cell {i} is folded" for i, cell in enumerate(copy.cells) if "jupyter" in cell.metadata]
    return found + [f"no cell {name}" for name in _ids(master) - _ids(copy)]


def _ids(notebook: NotebookNode) -> set[str]:
    return {name for cell in notebook.cells if (name := cells.grade_id(cell))}
