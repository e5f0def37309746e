"""`python -m course_lib work` and `check`: a reader's own copies, kept up to date, and their answers, checked."""

import os
import sys

# nbformat imports jsonschema, which would build a grammar of web addresses that no notebook needs, for half a second
sys.modules.setdefault("rfc3987_syntax", None)

from course_lib import scale  # noqa: E402
from course_lib.desk import copies, start_page  # noqa: E402
from course_lib.desk.checking import Report  # noqa: E402
from course_lib.desk.copies import HERE, Desk  # noqa: E402

SCALE = "smoke"  # at which submissions are graded, too


def work(only: str | None = None, desk: Desk = HERE) -> int:
    """Brings the copies up to date and renews the start page; prints what changed and where to begin."""
    for line in copies.update(desk, only):
        print(line)
    page = start_page.write(desk)
    print(f"start here: {copies.shown(page)}; `make lab` opens it")
    return 0


def check(only: str, seconds: float, desk: Desk = HERE) -> int:
    """Checks the answers in a reader's copy, prints what came of each exercise, and notes the points; gives the exit status.

    Raises:
        ValueError: no notebook's name begins with `only`, there is no copy of it, or the copy is damaged.
        RuntimeError: the notebook's own set-up fails.
    """
    from tqdm import tqdm

    from course_lib.classroom import cells
    from course_lib.desk import filed

    os.environ.setdefault("COURSE_SCALE", SCALE)  # for the kernels
    unit = desk.units(only)[0]
    if not desk.copy(unit).exists():
        raise ValueError(f"there is no {copies.shown(desk.copy(unit))} yet; `python -m course_lib work` makes it")
    master, copy = copies.trusted(desk.original(unit)), copies.read(desk.copy(unit))
    tests = sum(map(cells.is_test, master.cells))
    with tqdm(total=tests, desc=f"checking {unit[:2]}", unit="test", leave=False) as bar:
        reports = filed.check(master, copy, seconds=seconds, tested=bar.update)
    print(f"{copies.shown(desk.copy(unit))}\n")
    for report in reports:
        print("\n".join(report.lines()))
        if report.tried:
            copies.keep_points(unit, report.exercise.number, report.won, report.exercise.possible, desk)
    print(f"\n{_total(reports)}, at {scale.name()} scale")
    start_page.write(desk)
    return 0


def _total(reports: list[Report]) -> str:
    won, possible = (sum(values) for values in zip(*((one.won, one.exercise.possible) for one in reports), strict=True))
    return f"{won:g} of {possible:g} points by tests"
