"""Grades an answer to a notebook's exercise the way the notebook's own test cells do, in this process."""

import contextlib
import functools
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


@functools.cache
def _notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


@functools.cache
def _set_up(name: str) -> dict:
    """The names that the cells tagged `setup` make; exercises may rely on nothing else."""
    names: dict = {}
    for cell in _notebook(name).cells:
        if "setup" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    return names


def graded_cells(name: str) -> dict[str, nbformat.NotebookNode]:
    """All cells that nbgrader knows, by grade_id."""
    return {cell.metadata.nbgrader.grade_id: cell for cell in _notebook(name).cells if "nbgrader" in cell.metadata}


def reference(name: str, number: int) -> str:
    """The model answer to an exercise."""
    return graded_cells(name)[f"answer-{number}"].source


def released(name: str, number: int) -> str:
    """The answer cell as a student gets it: what stands between the solution marks is gone."""
    kept, inside = [], False
    for line in reference(name, number).splitlines():
        if "### BEGIN SOLUTION" in line:
            inside = True
            kept.append(line.split("###")[0] + "raise NotImplementedError()")
        elif "### END SOLUTION" in line:
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def points(name: str, number: int, answer: str) -> tuple[float, float]:
    """(points won, points possible) of `answer` to an exercise of a notebook."""
    names = dict(_set_up(name))
    with contextlib.suppress(Exception):  # an answer cell that fails leaves its tests to fail, as in a kernel
        exec(answer, names)
    won = possible = 0
    for grade_id, cell in graded_cells(name).items():
        if not grade_id.startswith(f"test-{number}-"):
            continue
        possible += cell.metadata.nbgrader.points
        try:
            exec(cell.source, dict(names))
        except Exception:  # whatever a wrong answer raises
            continue
        won += cell.metadata.nbgrader.points
    return won, possible
