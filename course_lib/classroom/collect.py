"""Submissions, from a folder or a zip: whose each is, of which notebook, and what is wrong with it.

Nothing is unpacked, no link is followed, nothing is read that is larger than a notebook can be.
"""

import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode

from course_lib.classroom import cells

LARGEST = 20 << 20  # bytes of a notebook
MOST = 5_000  # files
ALIKE = 0.5  # of a notebook's questions and tests must be there


@dataclass
class Submission:
    """What one student handed in for one notebook; `problem` says why it cannot be graded, else None."""

    student: str
    unit: str  # the notebook's name, such as '02_weight_pruning'; '?' where it cannot be told
    path: str  # as the instructor knows it
    content: bytes = b""
    problem: str | None = None

    def notebook(self) -> NotebookNode:
        """The notebook, in format 4."""
        return read(self.content)


def collect(place: Path, masters: dict[str, NotebookNode]) -> list[Submission]:
    """All submissions below `place`, sorted; each pair of student and notebook once.

    Args:
        place: a folder in nbgrader's layout, `<student>/<unit>/<unit>.ipynb`; a flat one of `<student>.ipynb`, also
            `<student>_<unit>.ipynb` or a folder a student; or a zip file of either. Zip files in a folder are a student each.
        masters: the instructor's notebooks, by unit.

    Raises:
        ValueError: `place` is neither a folder nor a zip file, or holds too many files.
    """
    if zipfile.is_zipfile(place):
        files = list(_in_zip(place))
    elif place.is_dir():
        files = list(_in_folder(place))
    else:
        raise ValueError(f"submissions are to be in a folder or a zip file, and {place} is neither")
    found: dict[tuple[str, str], Submission] = {}
    for path, content, problem in sorted(files, key=lambda file: file[0]):
        one = _submission(path, content, problem, masters)
        first = found.setdefault((one.student, one.unit), one)
        if first is not one:
            first.problem = f"there are two: {first.path} and {one.path}; take one away"
    return [found[key] for key in sorted(found)]


def _submission(path: str, content: bytes, problem: str | None, masters: dict[str, NotebookNode]) -> Submission:
    """Tells whose a file is from its path, and of which notebook from what it holds."""
    named = _named(path, masters)
    unit, student = named or (next(iter(masters)) if len(masters) == 1 else "?"), _student(path, masters)
    if problem:
        return Submission(student, unit, path, problem=problem)
    try:
        notebook = read(content)
    except ValueError as reason:
        return Submission(student, unit, path, problem=str(reason))
    alike = {unit: cells.likeness(master, notebook) for unit, master in masters.items()}
    best = max(alike, key=alike.get)
    if named and alike[named] >= ALIKE:
        best = named
    if alike[best] < ALIKE:
        changed = ": too little of its questions and tests is there" if named or len(masters) == 1 else ""
        return Submission(student, unit, path, problem=f"it is none of {', '.join(masters)}{changed}")
    if named and best != named:
        return Submission(student, named, path, problem=f"it is notebook {best}, handed in as {named}")
    return Submission(student, best, path, content)


def read(content: bytes) -> NotebookNode:
    """A notebook in format 4 from what a file holds.

    Raises:
        ValueError: it is none; the message says why.
    """
    try:
        raw = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as reason:
        raise ValueError(f"broken JSON: {reason}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list) or raw.get("nbformat") != 4:
        raise ValueError("not a notebook of format 4")
    try:
        read_cells = [_cell(cell) for cell in raw["cells"]]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, nbformat.ValidationError) as reason:
        raise ValueError(f"not a notebook: {reason!r}") from None
    return nbformat.v4.new_notebook(cells=read_cells)


def _cell(raw: dict) -> NotebookNode:
    """What counts of a cell: its kind, source, tags and nbgrader's metadata; outputs and all else do not."""
    make = dict(code=nbformat.v4.new_code_cell, markdown=nbformat.v4.new_markdown_cell, raw=nbformat.v4.new_raw_cell)
    tags, known = (raw.get("metadata", {}).get(name) for name in ("tags", "nbgrader"))
    metadata = dict(nbgrader=nbformat.from_dict(known)) if isinstance(known, dict) else {}
    if isinstance(tags, list):
        metadata["tags"] = [tag for tag in tags if isinstance(tag, str)]
    return make[raw["cell_type"]]("".join(raw["source"]), metadata=metadata)


def _student(path: str, masters: dict[str, NotebookNode]) -> str:
    """Whose a file is: the last part of its path that is no notebook's name."""
    parts = [part.removesuffix(".ipynb") for part in PurePosixPath(path).parts]
    for unit in masters:
        parts = [re.sub(rf"[-_ ]+{re.escape(unit)}$", "", part) for part in parts]
    people = [part for part in parts if part not in masters]
    name = people[-1] if people else parts[-1]
    return re.sub(r"[^\w .@-]", "_", name).strip(" .@-") or "_"  # a table's program takes a leading @ or - for a formula


def _named(path: str, masters: dict[str, NotebookNode]) -> str | None:
    """The notebook that a path names."""
    text = [part.removesuffix(".ipynb") for part in PurePosixPath(path).parts]
    return next((unit for unit in masters if any(part == unit or part.endswith(unit) for part in text)), None)


def _in_folder(place: Path) -> Iterator[tuple[str, bytes, str | None]]:
    """(path below `place`, content, problem) of each file that may be a submission."""
    count = 0
    for folder, subfolders, files in os.walk(place):  # does not go into links
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__")))
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        for name in sorted(files) + links:
            path = Path(folder, name)
            shown = path.relative_to(place).as_posix()
            count += 1
            if count > MOST:
                raise ValueError(f"{place} holds more than {MOST:,} files")
            if name.startswith(".") or path.suffix not in (".ipynb", ".zip") and name not in links:
                continue
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield shown, b"", "a symbolic link, which is not followed"
            elif not stat.S_ISREG(mode):
                yield shown, b"", "not a file"
            elif path.suffix == ".zip":
                yield from _student_zip(path, shown)
            elif path.stat().st_size > LARGEST:
                yield shown, b"", f"larger than {LARGEST >> 20} MiB"
            else:
                yield shown, path.read_bytes(), None


def _student_zip(path: Path, shown: str) -> Iterator[tuple[str, bytes, str | None]]:
    """The notebooks of a zip in the folder: all are of the student whom the zip is named after."""
    student = PurePosixPath(shown).stem
    if not zipfile.is_zipfile(path):
        yield f"{student}.ipynb", b"", "not a zip file"
        return
    for _, content, problem in _in_zip(path):  # its entries may be called anything, after another student too
        yield f"{student}.ipynb", content, problem


def _in_zip(path: Path) -> Iterator[tuple[str, bytes, str | None]]:
    """(name, content, problem) of each notebook in a zip file; what its name says of a place is never used for one."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > MOST:
            raise ValueError(f"{path} holds more than {MOST:,} files")
        for entry in entries:
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts)
            linked = stat.S_ISLNK(entry.external_attr >> 16)
            if hidden or not (entry.filename.endswith(".ipynb") or linked or ".." in parts):
                continue
            yield "/".join(parts), *_entry(archive, entry, parts, linked)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, parts: tuple[str, ...], linked: bool) -> tuple[bytes, str | None]:
    """The content of an entry, or the problem with it."""
    if ".." in parts or not parts or parts[0].endswith(("/", ":")):
        return b"", f"its path in the zip, {entry.filename!r}, leads out of it"
    if linked:
        return b"", "a link in the zip, which is not followed"
    try:
        with archive.open(entry) as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as reason:
        return b"", f"cannot be read from the zip: {reason}"
    return (b"", f"larger than {LARGEST >> 20} MiB") if len(content) > LARGEST else (content, None)
