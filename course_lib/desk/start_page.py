"""The page on which JupyterLab opens: what to read, in which order, and where the reader is."""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from nbformat import NotebookNode

from course_lib.classroom import cells
from course_lib.desk.copies import HERE, Desk, points, read, trusted
from course_lib.files import replacing

NAME = "Start here.md"
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
MINUTES = re.compile(r"^\| Time \| (.+?)(?: at lesson scale| on a laptop).*$", re.MULTILINE)
ORDERS = (("One evening", "02"), ("Small files", "01 02 05"), ("Fast networks", "04 03 06 07"))

PAGE = """\
# Compressing deep networks

Seven papers that made neural networks small, each as a notebook that runs on a laptop. Read a notebook from top to bottom, run
each cell with <kbd>Shift</kbd> + <kbd>Enter</kbd>, and solve the exercises at its end.

{next}

## The notebooks

| notebook | time to run | where you are | points by tests |
| --- | --- | --- | --- |
{rows}

**Which order?** {orders} All seven papers: by number, starting with {first}.

## How it works

- **These are your own copies.** Write in them, run them, break them. An update of the course changes only cells that you left
  alone. To start a notebook afresh, rename or delete its copy in the folder `work` and run `make lab` again.
- **The originals** in the folder [notebooks]({originals}) are for reading: they show every figure as it came out, and model
  answers, folded away. What you run there is not saved.
- **Exercises check themselves.** Run your answer, then the tests below it; `check("exercise-1")` runs the hidden ones too and
  shows the smallest case that fails. In a terminal, `python -m course_lib check 02` checks a whole notebook.

This page is renewed when `make lab` starts and after each check.
"""


class State(NamedTuple):
    """Where a reader is in a notebook."""

    unit: str
    title: str  # '02 · Learning both weights and connections'
    time: str
    begun: str  # 'not opened', 'opened', or what was done
    won: float
    possible: float


def write(desk: Desk = HERE) -> Path:
    """Writes the page into the folder of the copies, and returns its path."""
    path = desk.work / NAME
    text = page(desk, [state(desk, unit) for unit in desk.units()])
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return path


def state(desk: Desk, unit: str) -> State:
    """Return where the reader is in a notebook."""
    original = trusted(desk.original(unit))
    card = original.cells[0].source if original.cells else ""
    title, time = TITLE.search(card), MINUTES.search(card)
    checked = points(desk).get(unit, {})
    return State(
        unit=unit, title=title[1] if title else unit, time=time[1] if time else "", begun=_begun(desk, unit),
        won=sum(won for won, _ in checked.values()),
        possible=sum(cell.metadata.nbgrader.points for cell in original.cells if cells.is_test(cell)),
    )  # fmt: skip


def _begun(desk: Desk, unit: str) -> str:
    try:
        mine, base = read(desk.copy(unit)), read(desk.handed_out(unit))
    except (OSError, ValueError):
        return "not opened"
    given = {name: cell.source for cell in base.cells if (name := cells.grade_id(cell)) and cells.is_answer(cell)}
    answered = sum(_answered(cell, given) for cell in mine.cells)
    ran = any(cell.get("execution_count") for cell in mine.cells)
    if answered:
        return f"{answered} of {len(given)} answers written"
    if ran or [cell.source for cell in mine.cells] != [cell.source for cell in base.cells]:
        return "begun"
    return "opened" if desk.opened(unit).exists() else "not opened"


def _answered(cell: NotebookNode, given: dict[str, str]) -> bool:
    name = cells.grade_id(cell)
    return name in given and bool(cell.source.strip()) and cell.source.strip() != given[name].strip()


def page(desk: Desk, states: list[State]) -> str:
    """Return the page as Markdown."""
    by_number = {one.unit[:2]: one for one in states}
    orders = " ".join(
        f"{name}: {', '.join(_link(by_number[number], number) for number in numbers.split() if number in by_number)}."
        for name, numbers in ORDERS
        if numbers[:2] in by_number
    )
    rows = "\n".join(f"| {_link(one)} | {one.time} | {one.begun} | {_points(one)} |" for one in states)
    first = _link(states[0]) if states else "the first"
    originals = Path("..") / desk.notebooks.name / "README.md"
    return PAGE.format(next=_next(states), rows=rows, orders=orders, first=first, originals=originals.as_posix())


def _next(states: list[State]) -> str:
    """A sentence that says where to go on."""
    begun = [one for one in states if one.begun not in ("not opened", "opened")]
    if not begun:
        return f"**New here?** Begin with {_link(states[0])}, the map of all the others." if states else ""
    open_ones = [one for one in begun if one.won < one.possible]
    if open_ones:
        return f"**Go on** with {_link(open_ones[-1])}."
    left = [one for one in states if one not in begun]
    return f"**Next:** {_link(left[0])}." if left else "You have worked through all notebooks."


def _points(one: State) -> str:
    return f"{one.won:g} of {one.possible:g}" if one.possible else ""


def _link(one: State, text: str | None = None) -> str:
    return f"[{text or one.title}]({quote(one.unit)}.ipynb)"
