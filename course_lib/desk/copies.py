"""Keeps the folder `work`: a copy of each notebook to write in, brought up to date when the course has changed.

Beside the copies, in `.course`, lies what the reader need not see: each copy as it was handed out, and how far the reader is.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.classroom import cells
from course_lib.desk import handout, merging
from course_lib.files import ROOT, replacing

NOTEBOOKS = ROOT / "notebooks"
WORK = ROOT / "work"


@dataclass(frozen=True)
class Desk:
    """The folders of the originals and of the copies."""

    notebooks: Path = NOTEBOOKS
    work: Path = WORK

    def units(self, only: str | None = None) -> list[str]:
        """The names of the notebooks, or of those that begin with `only`, where 1 means 01.

        Raises:
            ValueError: there is none.
        """
        found = sorted(path.stem for path in self.notebooks.glob("*.ipynb"))
        wanted = only.zfill(2) if only and only.isdigit() else only or ""
        chosen = [unit for unit in found if unit.startswith(wanted)]
        if not chosen:
            there = ", ".join(unit[:2] for unit in found)
            raise ValueError(f"no notebook's name begins with {wanted!r}; there are {there or 'none'} in {self.notebooks}")
        return chosen

    def original(self, unit: str) -> Path:
        """The notebook to read, with model answers."""
        return self.notebooks / f"{unit}.ipynb"

    def copy(self, unit: str) -> Path:
        """The notebook to write in."""
        return self.work / f"{unit}.ipynb"

    def handed_out(self, unit: str) -> Path:
        """The copy as it was handed out last."""
        return self.work / ".course" / "handed out" / f"{unit}.ipynb"

    def opened(self, unit: str) -> Path:
        """A file that is there when the reader has opened the copy."""
        return self.work / ".course" / "opened" / unit

    def points(self) -> Path:
        """The points of the reader's checks, by notebook and exercise."""
        return self.work / ".course" / "points.json"


HERE = Desk()


def update(desk: Desk = HERE, only: str | None = None) -> Iterator[str]:
    """Brings the copies up to date, and yields a line for each thing that a reader should know of.

    Raises:
        ValueError: no notebook's name begins with `only`.
    """
    everything = desk.units()
    for unit in desk.units(only):
        yield from _update(desk, unit, everything)


def read(path: Path) -> NotebookNode:
    """Return a notebook. Raises ValueError where the file holds none."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook, relax_add_props=True)
    except OSError:
        raise
    except Exception as reason:  # nbformat's own errors, and what half a notebook makes of its code
        raise ValueError(f"{path} is no notebook: {str(reason).splitlines()[0] if str(reason) else reason!r}") from reason
    return notebook


def trusted(path: Path) -> NotebookNode:
    """Return one of the course's own notebooks, which need no validation."""
    return nbformat.from_dict(json.loads(path.read_text(encoding="utf-8"), object_hook=_joined))


def _joined(node: dict) -> dict:
    """A part of a notebook with its text in one piece."""
    return {
        key: "".join(value) if key in ("source", "text") and isinstance(value, list) else value for key, value in node.items()
    }


def _update(desk: Desk, unit: str, units: Collection[str]) -> Iterator[str]:
    base, mine = _read_or_none(desk.handed_out(unit)), None
    digest = _digest(desk.original(unit))
    stamp = desk.handed_out(unit).with_suffix(".sha256")
    current = base is not None and stamp.exists() and stamp.read_text(encoding="utf-8") == digest
    theirs = base if current else _handed_out(desk, unit, units)
    copy = desk.copy(unit)
    if copy.exists():
        mine = _read_or_none(copy)
        if mine is None:
            yield f"{shown(copy)} is damaged; it was put aside as {_aside(copy).name}, and a new copy is in its place"
    if mine is None:
        _write(theirs, copy)
        yield f"{shown(copy)}: a new copy"
    elif not current:
        merged = merging.merge(base or theirs, theirs, mine)
        if merged.notebook != mine:
            _write(merged.notebook, copy)
        yield from _told(desk, unit, merged)
    if not current:  # last: until then an interrupted update is made again, and finds itself done
        _write(theirs, desk.handed_out(unit))
        _write_text(digest, stamp)


def _handed_out(desk: Desk, unit: str, units: Collection[str]) -> NotebookNode:
    original = trusted(desk.original(unit))
    return handout.hand_out(original, unit, units, home=desk.notebooks, place=desk.work)


def _told(desk: Desk, unit: str, merged: merging.Merged) -> Iterator[str]:
    """What a merge did, in sentences."""
    counts = [
        f"{len(names)} {'cell' if len(names) == 1 else 'cells'} {what}"
        for names, what in ((merged.updated, "updated"), (merged.added, "added"), (merged.removed, "removed"))
        if names
    ]
    if counts or merged.conflicts or merged.given_up:
        yield f"{shown(desk.copy(unit))}: {', '.join(counts) or 'nothing to update'}; what you wrote is as you left it"
    for name in merged.conflicts:
        yield f"  you and the course both changed “{name}”; yours stays, the course's is in {shown(desk.original(unit))}"
    for name in merged.given_up:
        yield f"  the course no longer has “{name}”, which you changed; yours stays"


def _aside(path: Path) -> Path:
    """Renames a file to the first name that is free, and returns that."""
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}.txt") for number in range(1, 10_000))
    free = next(name for name in names if not name.exists())
    return path.rename(free)


def _read_or_none(path: Path) -> NotebookNode | None:
    try:
        return read(path)
    except (ValueError, FileNotFoundError):
        return None


def _write(notebook: NotebookNode, path: Path) -> None:
    _write_text(nbformat.writes(notebook, version=4) + "\n", path)


def _write_text(text: str, path: Path) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _digest(original: Path) -> str:
    """Changes when the original does, or the code that makes copies."""
    parts = (original, Path(handout.__file__), Path(cells.__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()


def shown(path: Path) -> str:
    """A path as a reader of the course types it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def points(desk: Desk = HERE) -> dict[str, dict[str, list[float]]]:
    """Return the points of the reader's last checks: notebook -> exercise -> [points won, points possible]."""
    try:
        found = json.loads(desk.points().read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a lost file costs a call of `check`
        return {}
    return found if isinstance(found, dict) else {}


def keep_points(unit: str, exercise: int, won: float, possible: float, desk: Desk = HERE) -> None:
    """Notes the points of a check."""
    known = points(desk)
    known.setdefault(unit, {})[str(exercise)] = [won, possible]
    _write_text(json.dumps(known, indent=1), desk.points())
