"""Submissions, from a folder or a zip: whose each is, of which notebook, and what is wrong with it.

Contents are read one at a time and not kept: a submission is where it lies, and the digest of what lay there.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode

from course_lib.classroom import cells, intake
from course_lib.classroom.intake import LARGEST, MOST, File
from course_lib.classroom.text import printable, student_name

MOST_CELLS = 2_000  # of a notebook; those of this course have about 60
LONGEST = 1_000_000  # characters of all cells' sources; those of this course have about 60,000
MOST_NESTED = 500_000  # lists and objects in the JSON: each takes up to 100 times the memory that it takes in the file
ALIKE = 0.5  # of a notebook's questions and tests must be there
MAKE = dict(code=nbformat.v4.new_code_cell, markdown=nbformat.v4.new_markdown_cell, raw=nbformat.v4.new_raw_cell)

__all__ = ["LARGEST", "MOST", "Submission", "collect", "read"]


@dataclass
class Submission:
    """What one student handed in for one notebook; `problem` says why it cannot be graded, else None."""

    student: str
    unit: str  # the notebook's name, such as '02_weight_pruning'; '?' where it cannot be told
    path: str  # as the instructor knows it
    file: File | None = None  # where it lies
    digest: str = ""  # of its content when it was collected
    problem: str | None = None

    def read(self) -> bytes:
        """Return the content of the file, as it was when it was collected.

        Raises:
            ValueError: it cannot be read any more, or is another.
        """
        try:
            content = self.file.read()
        except ValueError as reason:
            raise ValueError(f"it changed while the class was being graded: {reason}") from None
        if _digest(content) != self.digest:
            raise ValueError("it changed while the class was being graded")
        return content

    def notebook(self) -> NotebookNode:
        """Return the notebook, in format 4, without outputs. Raises ValueError as `read` does."""
        return read(self.read())


def collect(place: Path, masters: dict[str, NotebookNode]) -> list[Submission]:
    """Return all submissions below `place`, sorted; each pair of student and notebook once.

    Args:
        place: a folder in nbgrader's layout, `<student>/<unit>/<unit>.ipynb`; a flat one of `<student>.ipynb`, also
            `<student>_<unit>.ipynb` or a folder per student; or a zip file of either. A zip file in a folder is one student's.
        masters: the instructor's notebooks, by unit.

    Raises:
        ValueError: `place` is neither a folder nor a zip file, cannot be opened, or holds too many files.
    """
    found: dict[tuple[str, str], Submission] = {}
    for one in sorted(_submissions(place, masters), key=lambda one: one.path):
        first = found.setdefault((one.student, one.unit), one)
        if first is not one:
            first.problem = f"there are two: {first.path} and {one.path}; take one away"
    return [found[key] for key in sorted(found)]


def _submissions(place: Path, masters: dict[str, NotebookNode]) -> Iterator[Submission]:
    for file, content in intake.files(place):
        unit, problem = _unit(file, content, masters)
        digest = "" if problem else _digest(content)
        yield Submission(
            _student(file.named, masters), unit, printable(file.shown, 200), file, digest, problem and printable(problem)
        )


def _unit(file: File, content: bytes, masters: dict[str, NotebookNode]) -> tuple[str, str | None]:
    """Tells which notebook a file is from its path and from what it holds; and the problem with it, if there is one."""
    named = _named(file.named, masters)
    unit = named or (next(iter(masters)) if len(masters) == 1 else "?")
    if file.problem:
        return unit, file.problem
    try:
        notebook = read(content)
    except ValueError as reason:
        return unit, str(reason)
    alike = {unit: cells.likeness(master, notebook) for unit, master in masters.items()}
    best = max(alike, key=alike.get)
    if named and alike[named] >= ALIKE:
        best = named
    if alike[best] < ALIKE:
        changed = ": too little of its questions and tests is there" if named or len(masters) == 1 else ""
        return unit, f"it is none of {', '.join(masters)}{changed}"
    if named and best != named:
        return named, f"it is notebook {best}, handed in as {named}"
    return best, None


def read(content: bytes) -> NotebookNode:
    """Return the notebook, in format 4, that a file holds: the sources, tags and grade_ids of its cells, and no outputs.

    Raises:
        ValueError: it is none, or a larger one than any that is graded; the message says why.
    """
    if content.count(b"[") + content.count(b"{") > MOST_NESTED:
        raise ValueError(f"more than {MOST_NESTED:,} lists and objects are in it")
    try:
        raw = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as reason:
        raise ValueError(f"broken JSON: {printable(str(reason), 150)}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list) or raw.get("nbformat") != 4:
        raise ValueError("not a notebook of format 4")
    if len(raw["cells"]) > MOST_CELLS:
        raise ValueError(f"more than {MOST_CELLS:,} cells")
    parts = [_parts(cell) for cell in raw["cells"]]
    if sum(len(source) for _, source, _ in parts) > LONGEST:
        raise ValueError(f"more than {LONGEST:,} characters in its cells, outputs not counted")
    return nbformat.v4.new_notebook(cells=[MAKE[kind](source, metadata=metadata) for kind, source, metadata in parts])


def _parts(raw: object) -> tuple[str, str, dict]:
    """What counts of a cell: its kind, its source, and of its metadata the tags and the name that nbgrader gives it."""
    if not isinstance(raw, dict) or raw.get("cell_type") not in list(MAKE):
        raise ValueError("not a notebook: one of its cells is none")
    lines = raw.get("source")
    lines = [lines] if isinstance(lines, str) else lines
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("not a notebook: the source of a cell is no text")
    source = "".join(lines)
    if not _can_be_written(source):
        raise ValueError("a cell holds half a character (a lone surrogate), which no file of text can hold")
    given = raw.get("metadata")
    given, metadata = given if isinstance(given, dict) else {}, {}
    known, tags = given.get("nbgrader"), given.get("tags")
    if isinstance(known, dict) and _is_name(known.get("grade_id")):
        metadata["nbgrader"] = nbformat.from_dict(dict(grade_id=known["grade_id"]))
    if isinstance(tags, list):
        metadata["tags"] = list(dict.fromkeys(tag for tag in tags[:20] if _is_name(tag) and "," not in tag))
    return raw["cell_type"], source, metadata


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 200 and _can_be_written(text)


def _can_be_written(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON can spell halves of characters."""
    try:
        return text.encode() is not None
    except UnicodeEncodeError:
        return False


def _student(path: str, masters: dict[str, NotebookNode]) -> str:
    """Whose a file is: the last part of its path that is no notebook's name."""
    parts = [_stem(part) for part in PurePosixPath(path).parts] or [""]
    for unit in masters:
        ends = tuple(f"{separator}{unit}" for separator in "-_ ")
        parts = [part.removesuffix(unit).rstrip("-_ ") if part.endswith(ends) else part for part in parts]
    people = [part for part in parts if part not in masters]
    return student_name(people[-1] if people else parts[-1])


def _named(path: str, masters: dict[str, NotebookNode]) -> str | None:
    """The notebook that a path names."""
    parts = [_stem(part) for part in PurePosixPath(path).parts]
    return next((unit for unit in masters if any(part.endswith(unit) for part in parts)), None)


def _stem(part: str) -> str:
    return part[:-6] if part.lower().endswith(".ipynb") else part[:-4] if part.lower().endswith(".zip") else part


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
