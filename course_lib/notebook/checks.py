"""`check("exercise-1")` in a notebook: all tests of an exercise, hidden ones too, on the answer as it stands there."""

import html
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from IPython import get_ipython
from IPython.display import DisplayHandle, display

from course_lib.notebook.rich import Rich

if TYPE_CHECKING:
    from course_lib.desk.checking import Report

FIRST = "Run the set-up cells at the top of the notebook first."


def check(exercise: str) -> None:
    """Runs the tests of an exercise on your answer, and shows its points and the smallest case that fails.

    No cell is run again; the answer is the one that this notebook holds now. The points are noted on the start page.

    Args:
        exercise: such as 'exercise-1'.

    Raises:
        RuntimeError: this is no notebook.
    """
    from course_lib.desk import copies  # the grader's machinery, which a notebook that is only read does not need

    if (shell := get_ipython()) is None:
        raise RuntimeError("check() works in a notebook; in a terminal type `python -m course_lib check 02`")
    if not copies.HERE.notebooks.is_dir():  # in the sandbox of a grader
        print("This is not checked here.")
        return
    names, bar = shell.user_ns, display(_progress(0, 1), display_id=True)
    history = [str(source) for source in names.get("In", [])]
    unit = _unit(names, history, copies.HERE)
    bar.update(_page([FIRST]) if unit is None else _checked(unit, exercise, names, history, bar))


def _checked(unit: str, exercise: str, names: dict[str, Any], history: list[str], bar: DisplayHandle) -> Rich:
    """What came of an exercise, or what is wrong with its name; `bar` shows how far the tests are."""
    from course_lib.desk import checking, copies, live, start_page

    master = copies.trusted(copies.HERE.original(unit))
    known = checking.exercises(master)
    number = re.fullmatch(r"exercise-(\d+)", str(exercise))
    if number is None or int(number[1]) not in known:
        return _page([f"check({exercise!r}): this notebook has " + ", ".join(f'"exercise-{found}"' for found in known)])
    one = known[int(number[1])]
    done = iter(range(1, len(one.tests) + 1))
    with torch.random.fork_rng(devices=[]):  # later cells draw the numbers that they would have drawn
        report = live.check(one, master, names, history, lambda: bar.update(_progress(next(done), len(one.tests))))
    if report.tried:
        with suppress(OSError):  # a folder that cannot be written to costs the note, not the check
            copies.keep_points(unit, one.number, report.won, one.possible, copies.HERE)
            start_page.write(copies.HERE)
    return _shown(report)


def _progress(done: int, tests: int) -> Rich:
    text = f"checking: {done} of {tests} tests"
    return Rich(f'<progress value="{done}" max="{tests}"></progress> {text}', text)


def _unit(names: dict[str, Any], history: list[str], desk: Any) -> str | None:
    """The name of the notebook that this is: by its file, or else by the cells that were run; None where neither tells."""
    from course_lib.desk import copies

    units = desk.units()
    for file in (names.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME")):
        if file and Path(file).stem in units:
            return Path(file).stem
    ran, shared = {source.strip() for source in history if source.strip()}, {}
    for unit in units:
        cells = {cell.source.strip() for cell in copies.trusted(desk.original(unit)).cells if cell.cell_type == "code"}
        shared[unit] = len(ran & cells)
    best = max(shared.values(), default=0)
    likely = [unit for unit in units if shared[unit] == best]
    return likely[0] if best and len(likely) == 1 else None


def _shown(report: "Report") -> Rich:
    """A report as HTML that reads in both themes, and as text."""
    from course_lib.desk import checking

    rows = [f"<b>{html.escape(report.heading())}</b>"]
    rows += [f"<div>{html.escape(text)}</div>" for text in report.remarks()]
    for one in report.tried:
        points = f"{one.test.metadata.nbgrader.points:g}"
        kind = "hidden" if checking.is_hidden(one.test) else "visible"
        mark = "✓ passed" if one.passed else "✗ failed"
        told = "".join(
            f"<div style='margin-left:2em'>{label} <code>{html.escape(text)}</code></div>"
            for label, text in (checking.told(one.case) if one.case else [])
        )
        rows.append(f"<div>{mark}: {kind} test, {points} {'point' if points == '1' else 'points'}{told}</div>")
    return Rich("\n".join(rows), "\n".join(report.lines()))


def _page(lines: list[str]) -> Rich:
    return Rich("".join(f"<div>{html.escape(line)}</div>" for line in lines), "\n".join(lines))
