"""`python -m course_lib score` and `challenge`: one file measured and compared, and the leaderboard of a class."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from course_lib import cluster
from course_lib.challenge import apart, handed_in, measuring, page, places
from course_lib.challenge.entry import LARGEST
from course_lib.challenge.handed_in import HandedIn
from course_lib.challenge.measuring import Digits
from course_lib.classroom import sandbox
from course_lib.classroom.text import spreadsheet
from course_lib.files import replacing
from course_lib.tables import as_text

PRACTICE = 0  # the seed that everybody knows


def score(file: Path, seed: int = PRACTICE) -> None:
    """Measure a file, and print where it stands among the course's own and what others published.

    Raises:
        ValueError: it cannot take part; the message says why.
    """
    with file.open("rb") as stream:
        content = stream.read(LARGEST + 1)
    digits = measuring.digits(seed)
    own = places.row(places.CLASS, file.stem, file.name, content, digits, sandboxed=False)
    print(f"{file.name}: {own['bytes']:,} bytes, a {own['network']} of widths {own['widths']}, in the class up to ", end="")
    print(f"{own['size_class']:,} bytes")
    count = len(digits.test.labels)
    print(f"wrong of {count:,} test digits: {own['test_wrong']}, or {own['test_error']:.2f} %")
    print(f"wrong of {count:,} warped digits (seed {seed}): {own['warped_wrong']}, or {own['warped_error']:.2f} %\n")
    rows = [own] + [one for one in places.references(digits) if one["network"] == own["network"]]
    print(_comparison(places.table(rows)))
    print(f"\n{_standing(own, rows[1:])}")
    if digits.about:
        print(digits.about)


def _comparison(table: pd.DataFrame) -> str:
    names = {"bytes": "bytes", "test_error": "test error %", "warped_error": "warped error %", "kind": "from", "name": "file"}
    shown = table.sort_values("bytes").replace({"kind": {places.CLASS: "you"}})
    shown["warped_error"] = [f"{error:.2f}" if error >= 0 else "not known" for error in shown.warped_error]
    return as_text(shown[list(names)].rename(columns=names))


def _standing(own: dict, others: list[dict]) -> str:
    """Whether another file is smaller and no worse, or as small and better, in a sentence."""
    ahead = [
        f"{one['name']} ({one['bytes']:,} bytes, {one['test_error']:.2f} %)"
        for one in others
        if (one["bytes"], one["test_error"]) != (own["bytes"], own["test_error"])
        and one["bytes"] <= own["bytes"]
        and one["test_error"] <= own["test_error"]
    ]
    if not ahead:
        return "On the test digits it is on the Pareto front: no file above is both smaller and better."
    return f"No larger and no worse on the test digits: {'; '.join(ahead)}"


def challenge(submissions: Path, out: Path, *, seed: int = PRACTICE, sandboxed: bool = True) -> None:
    """Score the files of a class, and write leaderboard.csv and leaderboard.html.

    Args:
        submissions: a folder or a zip, as `handed_in.collect` reads it.
        out: the folder to write to.
        seed: of the warped digits, by which the places go.
        sandboxed: whether files are decoded in the sandbox of grading.

    Raises:
        RuntimeError: there is no bubblewrap, and `sandboxed`.
        ValueError: there is nothing to score.
    """
    if sandboxed:
        sandbox.check()
    found = handed_in.collect(submissions)
    digits = measuring.digits(seed)
    table = places.table(_rows(found, digits, sandboxed) + places.references(digits))
    texts = table.select_dtypes(exclude="number").columns
    with replacing(out / "leaderboard.csv") as scratch:
        table.assign(**{name: table[name].map(spreadsheet, na_action="ignore") for name in texts}).to_csv(scratch, index=False)
    with replacing(out / "leaderboard.html") as scratch:
        scratch.write_text(page.page(table, seed, digits.about), encoding="utf-8")
    encoding = sys.stdout.encoding or "utf-8"  # a terminal need not know every letter of a name
    print(_summary(table, out, seed, digits).encode(encoding, "backslashreplace").decode(encoding))


def _rows(found: list[HandedIn], digits: Digits, sandboxed: bool) -> list[dict]:
    """The row of each file, or the problem with it; several are decoded at a time."""
    from tqdm.auto import tqdm

    def decode(one: HandedIn):
        try:
            return ValueError(one.problem) if one.problem else apart.decode(one.content, sandboxed=sandboxed)
        except ValueError as reason:
            return reason

    rows = []
    with ThreadPoolExecutor(cluster.cores()) as threads:
        for one, entry in zip(found, tqdm(threads.map(decode, found), total=len(found), unit="file"), strict=True):
            about = dict(kind=places.CLASS, name=one.student, file=one.shown)
            told = dict(problem=str(entry)) if isinstance(entry, ValueError) else places.measured(entry, len(one.content), digits)
            rows.append(about | told)
    return rows


def _summary(table: pd.DataFrame, out: Path, seed: int, digits: Digits) -> str:
    """How many files were scored, each that was not, and where the leaderboard is."""
    own = table[table.kind == places.CLASS]
    refused = own[own.problem.notna()]
    lines = [f"{len(own) - len(refused)} files scored, {len(refused)} not"]
    lines += [f"  {one.name}  {one.file}: {one.problem}" for one in refused.itertuples()]
    if seed == PRACTICE:
        lines.append(
            f"seed {PRACTICE} is for practice, and everybody can measure by it; choose another one for the places that count"
        )
    lines += [digits.about] if digits.about else []
    return "\n".join([*lines, f"leaderboard: {out / 'leaderboard.csv'}, {out / 'leaderboard.html'}"])
