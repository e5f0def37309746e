"""The files that a class handed in: whose each is, and what is wrong with it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from course_lib.challenge.entry import LARGEST
from course_lib.classroom import intake
from course_lib.classroom.text import printable, student_name

SUFFIX = ".cnet"
KIND = intake.Kind(SUFFIX, f"{SUFFIX} file")
MOST_EACH = 5  # files of a student: one for each size class


@dataclass(frozen=True)
class HandedIn:
    """A file of a student; `problem` says why it cannot be scored, else it is ''."""

    student: str
    shown: str  # the file's path, as the instructor knows it
    content: bytes
    problem: str = ""


def collect(place: Path) -> list[HandedIn]:
    """Return the files at `place`, sorted by student; nothing is unpacked, and no link is followed.

    Args:
        place: a folder or a zip of `<student>.cnet`, or of a folder or a zip for each student.

    Raises:
        ValueError: `place` cannot be opened, or holds no such file.
    """
    found = list(_files(place))
    if not found:
        raise ValueError(f"no {SUFFIX} file is in {place}")
    counts: Counter[str] = Counter()
    for number, one in enumerate(sorted(found, key=lambda one: (one.student, one.shown))):
        counts[one.student] += 1
        if counts[one.student] > MOST_EACH and not one.problem:
            one = HandedIn(one.student, one.shown, b"", f"more than {MOST_EACH} files; the first {MOST_EACH} by name are scored")
        found[number] = one
    return found


def _files(place: Path) -> Iterator[HandedIn]:
    found = list(intake.files(place, KIND))
    paths = [PurePosixPath(file.named).parts or ("",) for file, _ in found]
    # A zip is often made of one folder, whose name is no student's
    skipped = int(place.is_file() and len({path[0] for path in paths}) == 1 and min(map(len, paths)) > 1)
    for (file, content), path in zip(found, paths, strict=True):
        problem = file.problem or ("" if len(content) <= LARGEST else f"the file has more than {LARGEST:,} bytes")
        name = path[skipped]
        student = student_name(name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name)
        yield HandedIn(student, printable(file.shown, 200), b"" if problem else content, printable(problem))
