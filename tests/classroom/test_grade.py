"""Grading a class: what is kept, what is done again, and what a cluster that loses a worker makes of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbgrader.api import Gradebook

from course_lib.__main__ import main
from course_lib.classroom import canaries, cells, examine, grade, kernels, sandbox
from course_lib.classroom.outcome import Outcome
from course_lib.classroom.sandbox import Limits
from tests import exercises
from tests.classroom.mini import UNIT, by_id, mini, needs_bwrap, submission, write
from tests.processes import ROOT, dask_cluster, kill
from tests.test_exercises import ANSWERS

STUDENTS = ["ada", "bob", "cid"]
SLOW = "import time\ntime.sleep(1)"
SETTINGS = grade.Settings(limits=Limits(memory=1 << 30, cell_seconds=60, seconds=120))
RUN = """
import sys
from pathlib import Path
from course_lib.classroom import grade
from tests.classroom.test_grade import SETTINGS

if __name__ == "__main__":  # Dask's workers import this file
    base = Path(sys.argv[1])
    workers = None if len(sys.argv) > 2 else 1
    scheduler = sys.argv[2] if len(sys.argv) > 2 else None
    sys.exit(grade.command(
        base / "in", base / "out", settings=SETTINGS, notebooks=base / "notebooks", workers=workers, scheduler=scheduler
    ))
"""


@pytest.fixture
def base(tmp_path) -> Path:
    """A folder with the instructor's notebook and a submission a student, which takes some seconds."""
    write(mini(), tmp_path / "notebooks" / f"{UNIT}.ipynb")
    for student in STUDENTS:
        write(submission(extra=SLOW), tmp_path / "in" / f"{student}.ipynb")
    tmp_path.joinpath("run.py").write_text(RUN)
    return tmp_path


def start(base: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(base / "run.py"), str(base), *arguments]
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True)


def records(base: Path) -> dict[str, int]:
    """Student -> when the record was written."""
    return {path.stem: path.stat().st_mtime_ns for path in (base / "out" / "records" / UNIT).glob("[!.]*.json")}


def wait_for_records(base: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(records(base)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(records(base)) >= count


def again(base: Path, settings: grade.Settings = SETTINGS) -> pd.DataFrame:
    arguments = dict(settings=settings, notebooks=base / "notebooks", progress=False)
    return grade.grade(base / "in", base / "out", **arguments).set_index("student")


@needs_bwrap
def test_a_killed_run_goes_on_and_grades_nothing_twice(base, monkeypatch):
    for student in STUDENTS[1:]:  # the one worker is kept at the second until the run is killed
        write(submission(extra="import time\ntime.sleep(600)"), base / "in" / f"{student}.ipynb")
    process = start(base)
    try:
        wait_for_records(base, 1)
    finally:
        kill(process)
    before = records(base)
    assert list(before) == STUDENTS[:1]
    for student in STUDENTS[1:]:
        write(submission(), base / "in" / f"{student}.ipynb")
    table = again(base)
    assert list(table.index) == STUDENTS and set(table.score) == {10} and set(table.status) == {"graded"}
    after = records(base)
    assert {student: after[student] for student in before} == before and set(after) == set(STUDENTS)
    # A person marks: the next call takes that over, and runs nothing
    page = base / "out" / "feedback" / "ada" / UNIT / f"{UNIT}.html"
    old = page.read_text(encoding="utf-8")
    with Gradebook(f"sqlite:///{base / 'out' / 'gradebook.db'}") as book:
        by_hand = book.find_grade("answer-3", UNIT, UNIT, "ada")
        by_hand.manual_score, by_hand.needs_manual_grade = 7, False
        book.db.commit()
    with monkeypatch.context() as patch:
        patch.setattr(grade._Work, "run", lambda work, todo, *_: todo and pytest.fail("graded twice"))
        table = again(base)
    assert table.score.tolist() == [17, 10, 10] and table.by_hand.tolist() == [0, 10, 10]
    assert page.read_text(encoding="utf-8") != old
    # What is handed in anew is graded anew, and nothing else; the person's marks stay, and wait to be confirmed
    after = records(base)
    write(submission({"answer-1": "def double(x):\n    return 3 * x"}), base / "in" / "ada.ipynb")
    table = again(base)
    assert table.score.tolist() == [12, 10, 10] and table.by_hand.tolist() == [10, 10, 10]
    assert {name for name, written in records(base).items() if written != after[name]} == {"ada"}
    assert pd.read_csv(base / "out" / "grades.csv").score.tolist() == [12, 10, 10]


@needs_bwrap
@pytest.mark.slow
def test_two_workers_of_a_cluster_one_of_which_is_killed(base):
    with dask_cluster(base) as (address, workers):
        process = start(base, address)
        try:
            wait_for_records(base, 1)
            kill(workers[0])
            assert process.wait(timeout=120) == 0
            assert "graded: 3" in process.stdout.read()
        finally:
            kill(process)
    assert pd.read_csv(base / "out" / "grades.csv").score.tolist() == [10] * 3


def test_without_bubblewrap_grading_is_refused_unless_it_is_forgone(base, monkeypatch):
    sandbox.check.cache_clear()
    monkeypatch.setattr(sandbox.shutil, "which", lambda program: None)
    with pytest.raises(RuntimeError, match=r"apt install bubblewrap.*--no-sandbox"):
        grade.grade(base / "in", base / "out", notebooks=base / "notebooks")
    assert not (base / "out").exists()
    for student in STUDENTS[1:]:
        (base / "in" / f"{student}.ipynb").unlink()
    settings = grade.Settings(limits=SETTINGS.limits, sandboxed=False)
    table = again(base, settings)
    assert table.score["ada"] == 10
    assert grade.WARNING in grade.summary(table.reset_index(), settings, base / "out")


def test_an_empty_folder_is_refused(base, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no notebook and no zip"):
        grade.grade(tmp_path / "empty", base / "out", settings=SETTINGS, notebooks=base / "notebooks")


def test_the_command_line_releases_and_tells_mistakes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sandbox, "check", lambda: None)
    assert main(["release", "--only", "00", "--out", str(tmp_path)]) == 0
    assert "00_why_compress.ipynb: 20 points" in capsys.readouterr().out
    assert main(["grade", "--submissions", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere is neither" in capsys.readouterr().err
    assert main(["grade", "--submissions", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "99"]) == 2
    assert "begins with '99'" in capsys.readouterr().err


def test_a_missing_notebook_of_a_student_is_a_line(base):
    """Also where a record is damaged: it is as if there were none."""
    table = pd.DataFrame([grade._line("ada", UNIT, "missing", 0.0, 20.0, 0.0, [])])
    assert "missing: 1" in grade.summary(table, SETTINGS, base)
    one = grade.Submission("ada", UNIT, "ada.ipynb", b"")
    work = grade._Work(grade.Course(base / "out"), {UNIT: mini()}, SETTINGS)
    for spoilt in ("", "[{"):
        with grade.replacing(work._path(one)) as scratch:
            scratch.write_text(spoilt)
        assert not work.is_done(one) and work._row(one)["status"] == "not done"


def marks(outcome: Outcome) -> dict[str, bool]:
    """Test -> whether it passed."""
    tests = [cell for cell in outcome.notebook.cells if cells.is_test(cell)]
    return {cells.grade_id(cell): not any(out.output_type == "error" for out in cell.outputs) for cell in tests}


ALL = [
    pytest.param(notebook, marks=[] if notebook == "03_network_trimming" else pytest.mark.slow) for notebook in sorted(ANSWERS)
]


@needs_bwrap
@pytest.mark.parametrize("notebook", ALL)
def test_right_answers_get_their_marks_and_wrong_ones_lose_some(notebook):
    """Notebook 03's answers take iterators and networks that they change; the others are graded by `make test-slow`."""
    kinds = ANSWERS[notebook].WRONG.values(), ANSWERS[notebook].RIGHT.values()
    wrong = {number: answer for number, answer in kinds[0] if number % 2}
    right = {number: answer for number, answer in kinds[1] if number % 2 == 0}
    handed_in = nbformat.reads(nbformat.writes(exercises._notebook(notebook)), as_version=4)
    for number, answer in (wrong | right).items():
        by_id(handed_in)[f"answer-{number}"].source = answer
    master = exercises._notebook(notebook)
    merged, changes = cells.merge(master, handed_in)
    outcome = examine.examine(master, merged, limits=Limits(cell_seconds=120))
    assert outcome.status == "graded" and changes == []
    passed = marks(outcome)
    for number in wrong:
        assert not all(ran for name, ran in passed.items() if name.startswith(f"test-{number}-"))
    for number in right:
        assert all(ran for name, ran in passed.items() if name.startswith(f"test-{number}-"))


@needs_bwrap
def test_a_kernel_with_intact_tests_kills_every_canary():
    import asyncio

    async def lived(spoil: str) -> tuple[list[str], list[str]]:
        async with kernels.start(Limits()) as kernel:
            await kernel.run("import numpy, torch")
            intact = await canaries.survivors(kernel)
            await kernel.run(spoil)
            return intact, await canaries.survivors(kernel)

    spoil = "import numpy.testing\ntorch.equal = torch.allclose = lambda *a, **k: True\nnumpy.testing.assert_array_equal = print"
    assert asyncio.run(lived(spoil)) == ([], ["torch.equal", "torch.allclose", "numpy.testing"])
