"""Checks the answers of a copy as it lies in its file, in the way in which submissions are graded."""

import json
from collections.abc import Callable

from nbformat import NotebookNode

from course_lib.classroom import cells, examine
from course_lib.classroom.sandbox import Limits
from course_lib.desk import handout
from course_lib.desk.cases import Case
from course_lib.desk.checking import Exercise, Report, Tried, exercises

EXPLAIN = """\
from course_lib.desk import cases as _course_cases

_course_case = _course_cases.smallest({source!r}, globals(), set({answers!r}))
print(_json.dumps(_course_case and _course_case.to_dict()))
"""


def check(master: NotebookNode, copy: NotebookNode, *, seconds: float, tested: Callable[[], None] = lambda: None) -> list[Report]:
    """Return a report of each exercise; runs set-up, answers, and what they need, in kernels of their own.

    Args:
        master: the original.
        copy: the reader's.
        seconds: for everything together.
        tested: called after each test.

    Raises:
        cells.TooMuch: the copy is too long to be looked through.
        RuntimeError: the original's own set-up fails.
    """
    known = exercises(master)
    sources = {cells.grade_id(cell): cell.source for cell in copy.cells if cells.is_answer(cell)}
    empty = {
        number for number, one in known.items() if one.answer is not None
        and handout.is_empty(sources.get(cells.grade_id(one.answer), ""))
    }  # fmt: skip
    reports = {number: Report(one, note=_note(number, one, empty)) for number, one in known.items()}
    wanted = {number: report for number, report in reports.items() if not report.note}
    if wanted:
        _run(master, copy, wanted, seconds, tested)
    return list(reports.values())


def _note(number: int, exercise: Exercise, empty: set[int]) -> str:
    if number in empty:
        return f"Exercise {number} has no answer yet."
    return "" if exercise.tests else "Written; a person reads it. The original has a model answer, folded away."


def _run(
    master: NotebookNode, copy: NotebookNode, reports: dict[int, Report], seconds: float, tested: Callable[[], None]
) -> None:
    """Runs the copy, and fills the reports."""
    merged, _ = cells.merge(master, copy)
    tests = {cells.grade_id(test) for report in reports.values() for test in report.exercise.tests}
    merged.cells = [cell for cell in merged.cells if not cells.is_test(cell) or cells.grade_id(cell) in tests]
    names = {number: sorted(report.exercise.names()) for number, report in reports.items()}

    def explain(test: NotebookNode) -> str:
        return EXPLAIN.format(source=test.source, answers=names.get(cells.exercise(test), []))

    watch = examine.Watch(explain=explain, tested=tested)
    limits = Limits(cell_seconds=seconds / 3, seconds=seconds)
    outcome = examine.examine(master, merged, limits=limits, sandboxed=False, watch=watch)
    for cell in merged.cells:
        report = reports.get(cells.exercise(cell))
        if report is None:
            continue
        failures = [out for out in cell.get("outputs", []) if out.output_type == "error"]
        if cells.is_test(cell):
            report.tried.append(Tried(cell, not failures, _case(watch.told.get(cells.grade_id(cell), ""))))
        elif failures:
            report.note = f"Your answer ends in {failures[0].ename}: {failures[0].evalue}"
    if not outcome.scored:
        for report in reports.values():
            report.note = f"Not all of it could be run: {'; '.join(outcome.reasons)}"


def _case(told: str) -> Case | None:
    found = json.loads(told) if told.strip() else None
    return Case(**found) if found else None
