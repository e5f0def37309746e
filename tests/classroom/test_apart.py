"""A process for each submission: whatever happens to it, the class goes on, and nothing of it is left."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from course_lib.classroom import apart, cells
from course_lib.classroom.sandbox import Limits
from tests.classroom.mini import mini, needs_bwrap, submission
from tests.classroom.test_hostile import FORGES, LIMITS, WRONG
from tests.processes import ROOT, kill

SLEEPS = "import time\ntime.sleep(600)"
NEVER = 600  # seconds: far above what a test may take, so that only the limit of interest can be met
PARENT = """
import sys
from course_lib.classroom import apart

apart.run(open(sys.argv[1]).read())
"""


def job(notebook=None, **changes) -> str:
    limits = dataclasses.asdict(changes.pop("limits", Limits(cell_seconds=NEVER, seconds=NEVER)))
    given = dict(master=mini(), submission=notebook or submission(), limits=limits, scale="smoke", everything=False)
    return json.dumps(given | dict(sandboxed=False) | changes)


def wait_for(parent: psutil.Process, module: str, count: int) -> list[psutil.Process]:
    """So many descendants that run a module; waits until they have been started."""
    while len(found := [child for child in parent.children(recursive=True) if module in command(child)]) < count:
        time.sleep(0.02)
    return found


def command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):  # it may just have ended
        return process.cmdline()
    return []


def grading(parent: psutil.Process) -> psutil.Process:
    """The process that grades."""
    return wait_for(parent, "course_lib.classroom", 1)[0]


@pytest.fixture
def own_tmp(tmp_path, monkeypatch) -> Path:
    """A folder for temporary files, so that what is left over can be seen."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_a_grading_process_that_is_stopped_or_killed(state, monkeypatch, own_tmp):
    monkeypatch.setattr(apart, "GRACE", 0)
    seconds = 3 if state == "stopped" else NEVER
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(apart.run, job(submission(extra=SLEEPS), limits=Limits(cell_seconds=NEVER, seconds=seconds)))
        process = grading(psutil.Process())
        process.send_signal(signal.SIGSTOP if state == "stopped" else signal.SIGKILL)
        outcome = json.loads(future.result())
    if state == "stopped":
        assert outcome["status"] == "timed out" and outcome["reasons"] == ["not done after 3 s, and its process was killed"]
    else:
        assert outcome["status"] == "crashed" and outcome["reasons"] == ["its grading process ended early (signal 9)"]
    assert not outcome["scored"] and not process.is_running() and not list(own_tmp.iterdir())


def test_a_submission_that_kills_its_own_worker(own_tmp):
    """Only without a sandbox can it: in one there is no other process to be seen."""
    outcome = json.loads(apart.run(job(submission(extra="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"))))
    assert outcome["status"] == "crashed" and "signal 9" in outcome["reasons"][0] and not outcome["scored"]
    assert outcome["notebook"] and not list(own_tmp.iterdir())


@needs_bwrap
def test_the_total_limit_is_told_as_what_it_is(own_tmp):
    limits = Limits(cell_seconds=NEVER, seconds=8)
    outcome = json.loads(apart.run(job(submission(extra=SLEEPS), limits=limits, sandboxed=True)))
    assert outcome["status"] == "timed out" and outcome["reasons"] == ["not done after 8 s"] and not outcome["scored"]
    tests = [cell for cell in outcome["notebook"]["cells"] if cell["metadata"].get("nbgrader", {}).get("grade")]
    assert all(cell["outputs"][0]["ename"] == "NotRun" for cell in tests if cell["cell_type"] == "code")
    assert not list(own_tmp.iterdir())


@needs_bwrap
def test_nothing_is_left_when_the_parent_is_killed(tmp_path):
    tmp_path.joinpath("job.json").write_text(job(submission(extra=SLEEPS), sandboxed=True))
    (tmp_path / "tmp").mkdir()
    environment = os.environ | dict(TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=str(ROOT))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "job.json"], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        process = grading(psutil.Process(parent.pid))
        family = [process, *wait_for(process, "ipykernel_launcher", 2), *process.children(recursive=True)]
        parent.kill()
        assert psutil.wait_procs(family, timeout=60)[1] == []
        assert not list((tmp_path / "tmp").iterdir())
    finally:
        kill(parent)


def test_an_interrupt_ends_every_process(own_tmp):
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(apart.run, job(submission(extra=SLEEPS))) for _ in range(2)]
        while len(apart._lifelines) < 2:
            time.sleep(0.02)
        grading(psutil.Process())
        apart.end_all()
        assert [json.loads(future.result())["status"] for future in futures] == ["crashed"] * 2
    assert not list(own_tmp.iterdir()) and not apart._lifelines


def test_the_instructors_own_mistake_is_no_students(own_tmp):
    master = mini()
    master.cells[1].source = "1 / 0"
    with pytest.raises(RuntimeError, match="the notebook's own set-up fails: ZeroDivisionError"):
        apart.run(job(master=master))
    assert not list(own_tmp.iterdir())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("%time 1\n" * 600, "a cell has 600 magics in 600 lines; allowed are 166"),
        ("x=1\n" * 100_000, "it has 100,010 lines of code; allowed are 10,000"),
        ("x = 1\n" * 1_000 + "!ls\n" * 200, "a cell has 200 magics in 1,200 lines; allowed are 83"),
    ],
)
def test_what_would_take_too_long_to_lay_out_is_refused(source, reason):
    with pytest.raises(cells.TooMuch, match=reason):
        cells.merge(mini(), submission(extra=source))
    outcome = json.loads(apart.run(job(submission(extra=source))))
    assert outcome["status"] == "unreadable" and reason in outcome["reasons"][0] and outcome["notebook"] is None


def test_the_longest_that_is_allowed_is_laid_out_in_bounded_time():
    """Through the whole of what is done before a kernel starts; some seconds, under the limit of a test."""
    for source in ("%time 1\n" * 300, "x = 1\n" * 9_900, "# why?\n" * 316):
        merged, _ = cells.merge(mini(), submission(extra=source))
        assert cells.wanted(mini(), merged)


def forged(_: int) -> dict:
    return json.loads(apart.run(job(submission(WRONG | {"answer-1": FORGES}), limits=LIMITS, sandboxed=True)))


@needs_bwrap
@pytest.mark.parametrize(
    "times",
    [10, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])],
)
def test_a_forger_never_hangs(times):
    """Frames written into the kernel's own sockets once made the client wait for ever, in about half of the runs."""
    before = threading.active_count()
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(forged, range(times)))
    assert [outcome["scored"] for outcome in outcomes] == [False] * times
    assert {outcome["status"] for outcome in outcomes} <= {"crashed", "timed out", "flagged"}
    assert not any("its process was killed" in " ".join(outcome["reasons"]) for outcome in outcomes), "it ended by itself"
    assert threading.active_count() <= before
