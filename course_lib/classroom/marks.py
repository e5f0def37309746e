"""Marks as Canvas and Moodle import them, for the students of a roster: a table that the platform itself has exported.

Of a platform's rules these count here, as its documentation and its importer state them:

- Canvas (guide "How do I import grades in the Gradebook?"; `lib/gradebook_importer.rb`): the first columns are `Student`, `ID`,
  perhaps `SIS User ID` and `SIS Login ID`, and `Section`; a column with the title of an assignment, or with `title (number)`,
  holds its marks; the row whose first cell says `Points Possible` holds what each is worth. A student is found by `ID`, then by
  the SIS columns.
- Moodle's gradebook (docs.moodle.org, "Grade import"; `grade/import/csv`): any columns; the instructor says which one identifies
  a student (ID number, email address or username) and which holds the marks of which activity. An empty cell is no mark.
- Moodle's grading worksheet of one assignment (`mod/assign/feedback/offline`): a student is found by `Identifier`; `Grade` and
  `Last modified (grade)` must be there too.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from course_lib.classroom.text import printable, student_name
from course_lib.files import replacing

MOST_TOLD = 5  # mistakes of one kind


@dataclass(frozen=True)
class Platform:
    """How a learning platform knows its students."""

    title: str
    ids: tuple[str, ...]  # columns that identify a student when marks are imported
    names: tuple[str, ...]  # columns that tell a student's name, or parts of it, in order
    download: re.Pattern  # how it names a submission that is downloaded
    number: str  # the column with the number in such a name
    export: str  # where a roster comes from


PLATFORMS = {
    "canvas": Platform(
        "Canvas",
        ("ID", "SIS User ID", "SIS Login ID"),
        ("Student",),
        re.compile(r"(?P<name>[^_]+)(_LATE)?_(?P<number>\d+)_\d+(_.*)?"),
        "ID",
        "the gradebook as Canvas exports it, whose first columns are Student, ID and, later, Section",
    ),
    "moodle": Platform(
        "Moodle",
        ("Identifier", "ID number", "Email address", "Username"),
        ("Full name", "First name", "Last name", "Surname"),
        re.compile(r"(?P<name>.+)_(?P<number>\d+)_assignsubmission_file(_.*)?"),
        "Identifier",
        "a grading worksheet or a gradebook as Moodle exports it in English, with one of the columns Identifier, ID number, "
        "Email address and Username",
    ),
}


@dataclass(frozen=True)
class Roster:
    """The students of a class, as a platform lists them."""

    platform: Platform
    columns: list[str]
    students: list[dict[str, str]]

    @property
    def is_worksheet(self) -> bool:
        """Whether it is Moodle's form for the marks of one assignment."""
        return {"Identifier", "Grade"} <= set(self.columns)

    def find(self, student: str) -> list[int]:
        """Return the places of all students who may be the one that the files call `student`."""
        found = self.platform.download.fullmatch(student)
        if found and self.platform.number in self.columns:  # the name beside it need not be unique
            return [i for i, row in enumerate(self.students) if _number(row[self.platform.number]) == found["number"]]
        wanted = found["name"] if found else student
        return [i for i, row in enumerate(self.students) if wanted in self._called(row)]

    def _called(self, row: dict[str, str]) -> set[str]:
        """What a student's files may be called, in the spelling in which `collect` knows names."""
        names = [row[column] for column in self.platform.names if row.get(column)]
        called = {row.get(column) for column in self.platform.ids} | {*names, " ".join(names)}
        return {student_name(text) for text in called if text}


def _number(identifier: str) -> str:
    """The digits at the end: Moodle writes 'Participant 1234', Canvas 1234."""
    return re.search(r"\d*$", identifier.strip())[0]


def read_roster(platform: str, path: Path) -> Roster:
    """Return the students that a platform's own table lists.

    Raises:
        ValueError: `platform` is unknown, or the file is no such table; the message says what it is to be.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"format is {platform!r}; allowed are {', '.join(PLATFORMS)}")
    known = PLATFORMS[platform]
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        columns, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    except (ValueError, csv.Error):
        raise ValueError(f"{path} is no table in UTF-8; it is to be {known.export}") from None
    columns = [column.strip() for column in columns]
    is_one = {"ID", "Section"} <= set(columns) if platform == "canvas" else not set(columns).isdisjoint(known.ids)
    if not is_one:
        raise ValueError(f"{path} is not {known.export}")
    students = [dict(zip(columns, (*row, *[""] * len(columns)), strict=False)) for row in rows if _is_student(row)]
    return Roster(known, columns, students)


def _is_student(row: list[str]) -> bool:
    """Whether a row is not one of those that Canvas puts above its students, and not empty."""
    kinds = re.compile(r"\s*(Muted|Manual Posting.*)?\s*", re.IGNORECASE)
    return not (all(map(kinds.fullmatch, row)) or "Points Possible" in row[0])


def export(roster: Roster, lines: list[dict], out: Path) -> str:
    """Writes the marks of those who handed in to `out`/canvas.csv or `out`/moodle.csv, and returns a sentence about it.

    Args:
        roster: the students.
        lines: one for each student and notebook, as in the table of `grade`.
        out: a folder.

    Raises:
        ValueError: a student is not in the roster, or is there twice or without an id, or has two submissions; no submission of a
            notebook has been graded; or a worksheet does not fit the marks. Nothing is written.
    """
    lines = [line for line in lines if line["notebook"] != "?"]  # a file that is no notebook of the course has no mark
    try:
        scores = _scores(roster, lines)
        best = _points(lines)
        table = (_worksheet if roster.is_worksheet else _gradebook)(roster, scores, best)
    except ValueError as problem:
        raise ValueError(f"no marks for {roster.platform.title} were written: {problem}") from None
    path = out / f"{roster.platform.title.lower()}.csv"
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(table)
    students = len({place for place, _ in scores})
    waiting = sum(line["by_hand"] > 0 or _is_none(line["score"]) for line in scores.values())
    later = f"; not final, because points wait for a person: {waiting}" if waiting else ""
    return f"marks for {roster.platform.title}: {path} (students: {students}{later})"


def _points(lines: list[dict]) -> dict[str, float]:
    """Notebook -> what it is worth, as far as any submission of it was laid out."""
    best = {unit: 0.0 for unit in sorted({line["notebook"] for line in lines})}
    for line in lines:
        best[line["notebook"]] = max(best[line["notebook"]], line["max_score"])
    if empty := [unit for unit, points in best.items() if not points]:
        raise ValueError(f"nothing could be graded of {', '.join(empty)}")
    return best


def _is_none(score: float | None) -> bool:
    return score is None or score != score


def _scores(roster: Roster, lines: list[dict]) -> dict[tuple[int, str], dict]:
    """(place in the roster, notebook) -> the line that counts."""
    found: dict[tuple[int, str], dict] = {}
    unknown, ambiguous, nameless, twice = [], [], [], []
    for line in sorted(lines, key=lambda line: line["status"] == "missing"):
        places = roster.find(line["student"])
        if len(places) != 1:
            (ambiguous if places else unknown).append(line["student"])
            continue
        first = found.setdefault((places[0], line["notebook"]), line)
        if first is not line and line["status"] != "missing":
            twice.append(f"{first['student']} and {line['student']}")
        if not any(roster.students[places[0]].get(column) for column in roster.platform.ids):
            nameless.append(line["student"])
    ids = ", ".join(column for column in roster.platform.ids if column in roster.columns)
    _refuse("not in the roster", unknown)
    _refuse("in the roster more than once", ambiguous)
    _refuse(f"in the roster without an id ({ids})", nameless)
    _refuse("one student of the roster, with two submissions", twice)
    return found


def _refuse(what: str, who: list[str]) -> None:
    who = list(dict.fromkeys(who))
    if who:
        more = f" and {len(who) - MOST_TOLD} more" if len(who) > MOST_TOLD else ""
        raise ValueError(f"{what}: {printable(', '.join(who[:MOST_TOLD]))}{more}")


def _cell(line: dict | None) -> str:
    return "" if line is None or _is_none(line["score"]) else f"{line['score']:g}"


def _gradebook(roster: Roster, scores: dict[tuple[int, str], dict], best: dict[str, float]) -> list[list[str]]:
    """A row for each student, a column for each notebook; for Canvas, and for Moodle's gradebook."""
    canvas = roster.platform.title == "Canvas"
    known = (*roster.platform.ids, *roster.platform.names)
    student = roster.columns[: roster.columns.index("Section") + 1] if canvas else [c for c in roster.columns if c in known]
    named = {re.sub(r" \(\d+\)$", "", column): column for column in roster.columns}  # an assignment that Canvas has already
    table = [[*student, *(named.get(unit, unit) for unit in best)]]
    if canvas:
        table.append(["    Points Possible", *[""] * (len(student) - 1), *(f"{points:g}" for points in best.values())])
    for place in sorted({place for place, _ in scores}):
        row = roster.students[place]
        table.append([*(row[column] for column in student), *(_cell(scores.get((place, unit))) for unit in best)])
    return table


def _worksheet(roster: Roster, scores: dict[tuple[int, str], dict], best: dict[str, float]) -> list[list[str]]:
    """Moodle's worksheet with the marks in it, and the rows of those who have one."""
    if len(best) != 1:
        raise ValueError(f"a grading worksheet is for one assignment, and these are {len(best)} notebooks; name one: N=02")
    (points,) = best.values()
    table = [roster.columns]
    for (place, _), line in sorted(scores.items()):
        row = roster.students[place]
        if (most := row.get("Maximum Grade", "")) and not re.fullmatch(rf"{points:g}([.,]0+)?", most.strip()):
            raise ValueError(f"the worksheet's maximum grade is {most}; set the assignment's to {points:g}")
        if mark := _cell(line):
            table.append([mark if column == "Grade" else row[column] for column in roster.columns])
    return table
