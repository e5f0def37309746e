"""A submission graded in an operating-system process of its own, so that nothing it does can hold up the class.

The parent (`run`) waits for the process at most for a fixed time and then kills it with everything that it started. The
process (`main`) lays the submission into the instructor's notebook, runs it, and writes down each result as soon as it has
it. It ends, and all its kernels with it, when its parent is gone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil

from course_lib.classroom import cells, examine
from course_lib.classroom.sandbox import Limits
from course_lib.files import ROOT, replacing

GRACE = 60  # seconds beyond the submission's own: to start, to lay the notebook out, to clean up
JOB, MERGED, OUTCOME, LOG = "job.json", "merged.json", "outcome.json", "log"
_alive = threading.Lock()  # held for good by what ends this process, so that nothing is written any more
_lifelines: set[int] = set()  # descriptors; a process ends when its own is closed, as it is when its parent dies


def run(job: str) -> str:
    """Grades one submission in a process of its own; whatever becomes of that process, an outcome comes back.

    Args:
        job: JSON of `master` and `submission` (notebooks), `limits`, `sandboxed`, `everything`, `scale`.

    Returns:
        JSON of `notebook` (None where the process ended before it was laid out), `changes`, `status`, `reasons`, `seconds`,
        `scored`.

    Raises:
        RuntimeError: the instructor's own set-up fails, or the sandbox cannot be made.
    """
    seconds = json.loads(job)["limits"]["seconds"]
    with _process(job) as (process, folder):
        try:
            process.wait(seconds + GRACE)
            fault = None
        except subprocess.TimeoutExpired:
            fault = dict(status="timed out", reasons=[f"not done after {seconds:g} s, and its process was killed"])
        _end(process)
        told = _read(folder / MERGED) | _read(folder / OUTCOME)
        if "error" in told:
            raise RuntimeError(told["error"])
        if "status" not in told:
            fault = fault or dict(status="crashed", reasons=[f"its grading process ended early ({_ending(process)})"])
            told |= fault | dict(seconds=seconds, scored=False)
        return json.dumps(dict(notebook=None, changes=[]) | told)


def end_all() -> None:
    """Ends every process that `run` waits for in this process."""
    for lifeline in list(_lifelines):
        _close(lifeline)


def _close(lifeline: int) -> None:
    with contextlib.suppress(KeyError):  # closed already: the number may be another file's by now
        _lifelines.remove(lifeline)
        os.close(lifeline)


@contextlib.contextmanager
def _process(job: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """The process that grades `job`, and its folder; neither is there any more when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="grading-"))
    folder.joinpath(JOB).write_text(job, encoding="utf-8")
    end, lifeline = os.pipe()
    _lifelines.add(lifeline)
    environment = os.environ | dict(TMPDIR=str(folder), PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "course_lib.classroom", str(folder), str(end)]
    try:
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, pass_fds=(end,), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield process, folder
        finally:
            _end(process)
    finally:
        os.close(end)
        _close(lifeline)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen) -> None:
    """Kills the process, its group and its descendants, stopped ones too; a sandbox dies with the process that made it."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _ending(process: subprocess.Popen) -> str:
    return f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main(folder: Path, end: int) -> None:
    """Grades the job in `folder`; the results are there, or what went wrong, before the process ends."""
    threading.Thread(target=_die_with_parent, args=(end, folder), daemon=True).start()
    try:
        told = _graded(json.loads(folder.joinpath(JOB).read_text(encoding="utf-8")), folder)
    except Exception as reason:  # ours, or the instructor's: the student is not to blame
        told = dict(error=f"{type(reason).__name__}: {reason}")
    _write(folder / OUTCOME, told)
    _die()


def _graded(job: dict, folder: Path) -> dict:
    os.environ["COURSE_SCALE"] = job["scale"]
    master = nbformat.from_dict(job["master"])
    try:
        merged, changes = cells.merge(master, nbformat.from_dict(job["submission"]))
    except cells.TooMuch as reason:
        return dict(status="unreadable", reasons=[str(reason)], seconds=0.0, scored=False)
    _write(folder / MERGED, dict(notebook=merged, changes=changes))
    limits = Limits(**job["limits"])
    outcome = examine.examine(master, merged, limits=limits, sandboxed=job["sandboxed"], everything=job["everything"])
    told = dict(status=outcome.status, reasons=outcome.reasons, seconds=outcome.seconds, scored=outcome.scored)
    return told | dict(notebook=outcome.notebook)


def _write(path: Path, content: dict) -> None:
    with _alive, replacing(path) as scratch:
        scratch.write_text(json.dumps(content), encoding="utf-8")


def _die_with_parent(end: int, folder: Path) -> None:
    """Waits until the other end of the pipe is closed, which the death of the parent does, however it dies."""
    os.read(end, 1)
    _alive.acquire()
    for _ in range(100):  # a kernel may just be being started; without the folder no other one can be
        _kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() and not psutil.Process().children():
            break
        time.sleep(0.02)
    _die()


def _die() -> None:
    """Ends this process and its descendants at once, without waiting for anything that may hang."""
    _kill_descendants()
    os._exit(0)


def _kill_descendants() -> None:
    for member in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
