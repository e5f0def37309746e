"""What a command asks of its arguments before anything heavy is imported; it checks again what it is called with."""

from pathlib import Path

from course_lib import papers
from course_lib.files import ROOT


def file(what: str, path: Path) -> None:
    """Raises FileNotFoundError if there is no such file; `what` names it."""
    if not path.is_file():
        raise FileNotFoundError(f"no {what} {path}")


def submissions(place: Path) -> None:
    """Raises ValueError if there is neither a folder nor a zip file."""
    if not place.exists():
        raise ValueError(f"submissions are to be in a folder or a zip file, and {place} is neither: there is none")


def names(what: str, given: list[str]) -> None:
    """Raises ValueError for a name that is none of a paper's."""
    for name in given:
        if name not in papers.names():
            raise ValueError(f"{what} is {name!r}; allowed are {', '.join(papers.names())}")


def roster(platform: str | None, path: Path | None):
    """The students as a learning platform lists them; None where no marks are wanted in its form."""
    if platform is None and path is None:
        return None
    if platform is None or path is None:
        raise ValueError("--format and --roster belong together: the platform, and its own table of the class")
    file("roster", path)
    from course_lib.classroom.marks import read_roster

    return read_roster(platform, path)


def notebook(beginning: str | None) -> None:
    """Raises ValueError if no notebook's name begins like this."""
    found = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    if not any(name.startswith(beginning or "") for name in found):
        raise ValueError(f"no notebook's name begins with {beginning or ''!r}; there are {', '.join(found) or 'none'}")
