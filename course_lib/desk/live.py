"""Checks an answer where it is: in the namespace of a running notebook, without running the notebook's cells again."""

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nbformat import NotebookNode

from course_lib.classroom import cells
from course_lib.desk import cases, handout
from course_lib.desk.checking import Exercise, Report, Tried

SECONDS = 60  # for all tests of an exercise


def check(
    exercise: Exercise, master: NotebookNode, names: dict[str, Any], history: Sequence[str], tested: Callable[[], None]
) -> Report:
    """Run the tests of an exercise on the answer that is in `names`, and return what came of it.

    Args:
        exercise: one of `checking.exercises(master)`.
        master: the original.
        names: the namespace of the notebook; tests run in copies of it.
        history: the sources of the cells that were run, the last one last.
        tested: called after each test.
    """
    report = Report(exercise, note=_obstacle(exercise, master, names, history))
    if report.note:
        return report
    try:
        with _limited(SECONDS):
            for test in exercise.tests:
                report.tried.append(_tried(test, names, exercise.names()))
                tested()
    except NotImplementedError:
        return Report(exercise, note=f"Exercise {exercise.number} has no answer yet.")
    except TimeoutError:
        report.note = f"The tests were stopped after {SECONDS} s. Does a loop in your answer ever end?"
        report.tried += [Tried(test, passed=False) for test in exercise.tests[len(report.tried) :]]
    return report


def _obstacle(exercise: Exercise, master: NotebookNode, names: dict[str, Any], history: Sequence[str]) -> str:
    """Why the tests cannot be run yet, in a sentence; empty where they can."""
    number = exercise.number
    if not exercise.tests:
        return "A person reads this answer, and there is no test to run. The original has a model answer, folded away."
    needed = set().union(*(cells.names(test.source)[0] for test in exercise.tests))
    given = {name for cell in master.cells if cells.is_setup(cell) for name in cells.names(cell.source)[1]}
    if missing := sorted((needed & given) - set(names)):
        return f"Run the set-up cells at the top of the notebook first; they define {', '.join(missing[:4])}."
    written = [source for source in history if exercise.names() & cells.names(source)[1]]
    if written and handout.is_empty(written[-1]):
        return f"Exercise {number} has no answer yet."
    if missing := sorted(exercise.names() - set(names)):
        return f"Run the cell with your answer to exercise {number} first; it is to define {', '.join(missing)}."
    return ""


def _tried(test: NotebookNode, names: dict[str, Any], answers: set[str]) -> Tried:
    """Run a test as it stands, and where it fails once more to tell why."""
    try:
        exec(compile(test.source, "<test>", "exec"), dict(names))
    except (Exception, SystemExit) as error:
        if cases.is_stub(error):
            raise
        return Tried(test, passed=False, case=cases.smallest(test.source, names, answers))
    return Tried(test, passed=True)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes longer; to be used in the main thread, where cells run.

    Interrupts count in the block, also in a process that was started to ignore them, as a shell starts those in its background.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        _thread.interrupt_main()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
