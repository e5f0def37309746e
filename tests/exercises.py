"""Grades an answer to a notebook's exercise the way the notebook's own test cells do, in this process."""

import contextlib
import functools
from collections.abc import Iterator
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
    passed = [(cell.metadata.nbgrader.points, ran) for cell, ran in _tests(name, number, answer)]
    return sum(worth for worth, ran in passed if ran), sum(worth for worth, _ in passed)


def loses_points(name: str, number: int, answer: str) -> bool:
    """Whether `answer` fails a test that counts; those behind the first such are not run."""
    return any(cell.metadata.nbgrader.points > 0 and not ran for cell, ran in _tests(name, number, answer))


def _tests(name: str, number: int, answer: str) -> Iterator[tuple[nbformat.NotebookNode, bool]]:
    """The test cells of an exercise, one after another, and whether `answer` passes them."""
    names = dict(_set_up(name))
    with contextlib.suppress(Exception):  # an answer cell that fails leaves its tests to fail, as in a kernel
        exec(answer, names)
    for grade_id, cell in graded_cells(name).items():
        if grade_id.startswith(f"test-{number}-"):
            try:
                exec(cell.source, dict(names))
            except Exception:  # whatever a wrong answer raises
                yield cell, False
            else:
                yield cell, True
