"""Files that may be submissions, in a folder or a zip: found, and read when they are needed.

Nothing is unpacked, no link is followed, and no file is read further than a notebook can be long. Whatever is wrong with one
file is told of that file, and the others are read.
"""

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from course_lib.classroom.text import printable

LARGEST = 20 << 20  # bytes of a notebook; those of this course have 0.8 MB with their figures
LARGEST_ZIP = 200 << 20  # bytes of a student's zip, which may hold data besides
MOST = 5_000  # files in the folder or zip of a class, or in a student's zip
MOST_OF_ONE = 50  # notebooks in a student's zip
DEEPEST = 20  # folders in each other
CHUNK = 1 << 20  # bytes read at once when a zip's entries are counted
# Only what is stored or deflated is read: of other methods zipfile bounds no memory, and 4 KB of bzip2 can be 4 GB
ENTRY = b"PK\x01\x02"  # with which each entry of a zip's directory begins
NESTED = "a zip file in a zip file, which is not opened; unpack the outer one into a folder and grade that"


class Kind(NamedTuple):
    """The kind of file that is handed in."""

    suffix: str
    word: str  # for messages


NOTEBOOK = Kind(".ipynb", "notebook")


@dataclass(frozen=True)
class File:
    """A file that may be a submission; `problem` says what keeps it from being read, else None."""

    shown: str  # as the instructor knows it
    named: str  # the path that tells the student and perhaps the notebook
    path: Path  # where it lies, or the zip does that it lies in
    entry: int | None = None  # its place in the zip's directory
    problem: str | None = None

    def read(self) -> bytes:
        """Return what the file holds.

        Raises:
            ValueError: it cannot be read, or is too large; the message says why.
        """
        with _reasons(), _opened(self.path) as stream:
            if self.entry is None:
                return _bounded(stream)
            with zipfile.ZipFile(stream) as archive:
                return _entry(archive, archive.infolist()[self.entry])


def files(place: Path, wanted: Kind = NOTEBOOK) -> Iterator[tuple[File, bytes]]:
    """Yield each file at `place` that may be a submission, with what it holds; of one with a problem that is nothing.

    Raises:
        ValueError: `place` is no folder and no zip file, cannot be opened, or holds too many files.
    """
    try:
        kind = place.stat().st_mode
    except (OSError, ValueError) as reason:
        raise ValueError(f"submissions are to be in a folder or a zip file, and {place} is neither: {_why(reason)}") from None
    if stat.S_ISDIR(kind):
        yield from _in_folder(place, wanted)
    elif stat.S_ISREG(kind) and (place.suffix.lower() == ".zip" or zipfile.is_zipfile(place)):
        try:
            with _reasons(), _opened(place, follow=True) as stream:
                yield from _in_zip(place, stream, wanted)
        except ValueError as reason:
            raise ValueError(f"the zip file {place} cannot be graded: {reason}") from None
    else:
        raise ValueError(f"submissions are to be in a folder or a zip file, and {place} is neither")


def _in_folder(place: Path, wanted: Kind) -> Iterator[tuple[File, bytes]]:
    """Each file below a folder that may be a submission, with what it holds."""
    for count, (path, problem) in enumerate(_walk(place, 0, wanted), 1):
        if count > MOST:
            raise ValueError(f"{place} holds more than {MOST:,} files")
        shown = path.relative_to(place).as_posix()
        if problem is None and path.suffix.lower() == ".zip":
            yield from _student_zip(path, shown, wanted)
        elif problem is not None or path.suffix.lower() == wanted.suffix:
            yield _read(File(shown, shown, path, problem=problem))


def _walk(folder: Path, depth: int, wanted: Kind) -> Iterator[tuple[Path, str | None]]:
    """Each file below a folder, sorted, with the problem that its kind is; hidden ones are passed over.

    Raises:
        ValueError: the outermost folder cannot be opened.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as reason:
        if depth == 0:
            raise ValueError(f"{folder} cannot be opened: {_why(reason)}") from None
        yield folder, f"a folder that cannot be opened: {_why(reason)}"
        return
    for entry in entries:
        path, handed_in = Path(entry.path), entry.name.lower().endswith((wanted.suffix, ".zip"))
        mode = _mode(entry)
        if entry.name.startswith(".") or entry.name.startswith("__") and stat.S_ISDIR(mode):
            continue
        if stat.S_ISLNK(mode):
            if handed_in or os.path.isdir(path):
                yield path, "a symbolic link, which is not followed"
        elif not stat.S_ISDIR(mode):
            yield path, "not a file" if handed_in and not stat.S_ISREG(mode) else None
        elif handed_in:
            yield path, "a folder, not a file"
        elif depth == DEEPEST:
            yield path, f"a folder in more than {DEEPEST} others, which is not searched"
        else:
            yield from _walk(path, depth + 1, wanted)


def _mode(entry: os.DirEntry) -> int:
    """The kind of what a folder holds; 0 where the system does not tell, as of a file that has vanished."""
    try:
        return entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return 0


def _read(file: File) -> tuple[File, bytes]:
    """A file with what it holds, or with the problem that reading it met."""
    try:
        return file, b"" if file.problem else file.read()
    except ValueError as reason:
        return File(file.shown, file.named, file.path, file.entry, str(reason)), b""


def _student_zip(path: Path, shown: str, wanted: Kind) -> Iterator[tuple[File, bytes]]:
    """The wanted files of a zip in the folder: all are of the student whom the zip is named after."""
    named = f"{PurePosixPath(shown).stem}{wanted.suffix}"  # its entries may be called anything, after another student too
    try:
        with _reasons(), _opened(path) as stream:
            _check_student_zip(stream)
            found = 0
            for file, content in _in_zip(path, stream, wanted):
                if file.problem == NESTED:
                    continue
                found += 1
                if found > MOST_OF_ONE:
                    raise ValueError(f"holds more than {MOST_OF_ONE} {wanted.word}s")
                yield File(f"{shown}: {file.shown}", named, path, file.entry, file.problem), content
            if found == 0:
                raise ValueError(f"a zip file without a {wanted.word}; zip files inside it are not opened")
    except ValueError as reason:
        yield File(shown, named, path, problem=str(reason)), b""


def _check_student_zip(stream: BinaryIO) -> None:
    """Refuses a zip that is too large, or whose directory is: Python reads that whole before a limit could be set."""
    if os.fstat(stream.fileno()).st_size > LARGEST_ZIP:
        raise ValueError(f"larger than {LARGEST_ZIP >> 20} MiB")
    if not zipfile.is_zipfile(stream):
        raise ValueError("not a zip file, or cut off")
    count, rest = 0, b""
    stream.seek(0)
    while chunk := stream.read(CHUNK):
        count += (rest + chunk).count(ENTRY)
        rest = (rest + chunk)[-len(ENTRY) + 1 :]
    if count > MOST:
        raise ValueError(f"holds more than {MOST:,} files")


def _in_zip(path: Path, stream: BinaryIO, wanted: Kind) -> Iterator[tuple[File, bytes]]:
    """Each file in a zip that may be a submission, with what it holds; what its name says of a place is never used for one."""
    try:
        archive = zipfile.ZipFile(stream)
    except Exception as reason:  # damage has many names: BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error
        raise ValueError(f"a damaged zip file ({_why(reason)}); unpacked into a folder it can be graded") from None
    with archive:
        entries = archive.infolist()
        if sum(not entry.is_dir() for entry in entries) > MOST:
            raise ValueError(f"holds more than {MOST:,} files")
        for number, entry in enumerate(entries):
            name = entry.filename.replace("\\", "/")
            parts = PurePosixPath(name).parts
            handed_in = name.rstrip("/").lower().endswith((wanted.suffix, ".zip"))
            problem = _problem(entry, parts)
            if any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts) or not (handed_in or problem):
                continue
            if problem is None and name.endswith("/"):
                problem = "a folder, not a file"
            if problem is None and name.lower().endswith(".zip"):
                problem = NESTED
            file, content = File(name, name, path, number, problem), b""
            if problem is None:
                try:
                    content = _entry(archive, entry)
                except ValueError as reason:
                    file = File(name, name, path, number, str(reason))
            yield file, content


def _problem(entry: zipfile.ZipInfo, parts: tuple[str, ...]) -> str | None:
    """What an entry's directory record alone says against it."""
    if ".." in parts or not parts or parts[0].endswith(("/", ":")):
        return f"its path in the zip, {printable(entry.filename, 100)!r}, leads out of it"
    return "a link in the zip, which is not followed" if stat.S_ISLNK(entry.external_attr >> 16) else None


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """What an entry holds. Raises ValueError where it cannot be read."""
    if entry.flag_bits & 1:
        raise ValueError("encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name = zipfile.compressor_names.get(entry.compress_type, f"method {entry.compress_type}")
        raise ValueError(f"compressed in the zip with {name}, which is not opened; make the zip anew with deflate, the usual way")
    try:
        with archive.open(entry) as stream:
            return _bounded(stream)
    except ValueError:
        raise
    except Exception as reason:  # of zlib, bz2, lzma and zipfile, each has its own; a student chose the bytes
        raise ValueError(f"damaged in the zip: {_why(reason)}") from None


def _bounded(stream: BinaryIO) -> bytes:
    content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 20} MiB")
    return content


@contextmanager
def _opened(path: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    """A regular file, opened: no link that has taken its place since it was found, and no pipe that would be waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a file")
        yield stream


@contextmanager
def _reasons() -> Iterator[None]:
    """Turns what the system or a damaged zip raises into a ValueError with a short reason."""
    try:
        yield
    except ValueError:
        raise
    except Exception as reason:
        raise ValueError(f"cannot be read: {_why(reason)}") from None


def _why(reason: Exception) -> str:
    """A short reason without paths and without what a student wrote at length."""
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return printable(text or type(reason).__name__, 150)
