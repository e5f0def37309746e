"""The exercises of a notebook and what came of checking one: points, and the smallest failing case of each test."""

import ast
import re
import textwrap
from dataclasses import dataclass, field

from nbformat import NotebookNode

from course_lib.classroom import cells
from course_lib.desk.cases import Case

WIDTH = 100  # characters of a line
HEADING = re.compile(r"#+ Exercise \d+(?: · (.*?))?(?: \([^()]*\))?\s*$")  # "### Exercise 1 · Two of four (6 points)"


@dataclass(frozen=True)
class Exercise:
    """An exercise: its heading, its answer and its tests, cells of the original."""

    number: int
    title: str
    answer: NotebookNode | None
    tests: list[NotebookNode]
    withheld: float = 0  # points of hidden tests that this checkout does not hold

    @property
    def possible(self) -> float:
        """The points that tests decide."""
        return sum(test.metadata.nbgrader.points for test in self.tests)

    def names(self) -> set[str]:
        """The names that an answer defines for the tests."""
        defined = cells.names(self.answer.source)[1] if self.answer is not None and self.answer.cell_type == "code" else set()
        return {name for name in defined if not name.startswith("_")}


@dataclass
class Tried:
    """A test that was run."""

    test: NotebookNode
    passed: bool
    case: Case | None = None


@dataclass
class Report:
    """What came of an exercise. `note` says why there is nothing to tell of tests, or what went wrong besides."""

    exercise: Exercise
    tried: list[Tried] = field(default_factory=list)
    note: str = ""

    @property
    def won(self) -> float:
        """The points of the tests that passed."""
        return sum(one.test.metadata.nbgrader.points for one in self.tried if one.passed)

    def heading(self) -> str:
        """Return the exercise and its points in a line."""
        found = self.exercise
        name = f"Exercise {found.number}{' · ' if found.title else ''}{found.title}"
        return f"{name}: {self.won:g} of {found.possible:g} points" if found.tests else name

    def remarks(self) -> list[str]:
        """Return what there is to say beside the tests, in sentences."""
        withheld = f"{self.exercise.withheld:g} more points are decided by hidden tests that are not in this checkout."
        return [text for text in (self.note, withheld if self.exercise.withheld else "") if text]

    def lines(self) -> list[str]:
        """Return the report as text, at most `WIDTH` characters wide."""
        lines = [f"  {line}" for text in self.remarks() for line in textwrap.wrap(text, WIDTH - 2)]
        for one in self.tried:
            points = one.test.metadata.nbgrader.points
            kind = "hidden" if is_hidden(one.test) else "visible"
            lines.append(
                f"  {'passed' if one.passed else 'failed'}  {points:g} {'point' if points == 1 else 'points'}, {kind} test"
            )
            for label, text in told(one.case) if one.case else []:
                lines += textwrap.wrap(text, WIDTH, initial_indent=f"    {label:10}", subsequent_indent=" " * 14)
        return [self.heading(), *lines]


def told(case: Case) -> list[tuple[str, str]]:
    """Return what a case tells, as (label, text)."""
    given = [("case:", case.call), ("got:", case.came), ("expected:", case.expected), ("hint:", case.hint)]
    return [(label, text) for label, text in given if text]


def is_hidden(test: NotebookNode) -> bool:
    """Return whether a test of the original has a part that its copy does not show."""
    return cells.HIDDEN.search(test.source) is not None


def exercises(master: NotebookNode) -> dict[int, Exercise]:
    """Return the exercises of a notebook by number."""
    numbers = sorted({number for cell in master.cells if (number := cells.exercise(cell)) is not None})
    return {number: _exercise(number, [cell for cell in master.cells if cells.exercise(cell) == number]) for number in numbers}


def _exercise(number: int, known: list[NotebookNode]) -> Exercise:
    lines = [line for cell in known if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    titles = [found[1] or "" for line in lines if (found := HEADING.match(line))]
    answers = [cell for cell in known if cells.is_answer(cell)]
    tests = [cell for cell in known if cells.is_test(cell)]
    here = [cell for cell in tests if ast.parse(cell.source).body]
    withheld = sum(cell.metadata.nbgrader.points for cell in tests if cell not in here)
    return Exercise(number, (titles or [""])[0], (answers or [None])[0], here, withheld)
