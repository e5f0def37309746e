"""What grading costs: of one submission against the bare run of its cells, and of a class, extrapolated from twenty."""

import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from course_lib.classroom import cells, examine, grade
from course_lib.classroom.gradebook import load
from course_lib.classroom.sandbox import NOTEBOOKS, Limits

MASTERS = load(NOTEBOOKS)
SLOWEST = "07_thinet"


@pytest.fixture(autouse=True)
def _smoke(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the sandbox


def bare(unit: str) -> float:
    """Seconds for the cells that grading runs, in one kernel of this account, start and end included."""
    master = MASTERS[unit]
    merged, _ = cells.merge(master, master)
    places = {*cells.wanted(master, merged), *(i for i, cell in enumerate(merged.cells) if cells.is_test(cell))}
    notebook = nbformat.v4.new_notebook(cells=[merged.cells[i] for i in sorted(places)])
    start = time.perf_counter()
    NotebookClient(notebook, timeout=300).execute()
    return time.perf_counter() - start


@pytest.mark.parametrize("unit", MASTERS)
def test_an_untouched_submission_takes_less_than_twice_its_bare_run(unit):
    seconds = []
    for _ in range(2):
        merged, _ = cells.merge(MASTERS[unit], MASTERS[unit])
        start = time.perf_counter()
        outcome = examine.examine(MASTERS[unit], merged, limits=Limits())
        seconds.append(time.perf_counter() - start)
        assert outcome.status == "graded"
        assert not any(out.output_type == "error" for cell in merged.cells for out in cell.get("outputs", []))
    alone = min(bare(unit), bare(unit))
    print(f"\n{unit}: bare {alone:.1f} s, graded {min(seconds):.1f} s: {min(seconds) / alone:.2f}x")
    assert min(seconds) < 2 * alone


def test_a_class_of_200_is_graded_in_an_hour(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(20):
        nbformat.write(MASTERS[SLOWEST], tmp_path / "in" / f"student {i:02}.ipynb")
    start = time.perf_counter()
    table = grade.grade(tmp_path / "in", tmp_path / "out", only=SLOWEST, workers=2)
    seconds = time.perf_counter() - start
    assert (table.status == "graded").all() and (table.score == table.score.max()).all()
    pages = list(Path(tmp_path / "out" / "feedback").rglob("*.html"))
    print(f"\n20 submissions of {SLOWEST}: {seconds:.0f} s, {seconds / 20:.1f} s each; of 200: {seconds / 6:.0f} minutes")
    assert len(pages) == 20 and seconds * 10 < 3600
