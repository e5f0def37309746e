"""Files compared: size classes, places in them, and the Pareto front of bytes and error."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from course_lib.challenge import apart
from course_lib.challenge.entry import LARGEST, Entry
from course_lib.challenge.handed_in import SUFFIX
from course_lib.challenge.measuring import Digits, network, wrong
from course_lib.files import ROOT

FOLDER = ROOT / "data" / "challenge"  # what others published, and in `course/` the course's own files
SIZE_CLASSES = (1_200, 2_000, 4_000, 10_000, LARGEST)  # bytes, at most; about one for each group of published figures
COLUMNS = ("kind", "name", "file", "network", "widths", "bytes", "size_class", "test_wrong", "test_error", "warped_wrong")
COLUMNS += ("warped_error", "problem")
WHOLE = dict.fromkeys(("bytes", "size_class", "test_wrong", "warped_wrong", "place", "front"), "Int64")  # some are missing
CLASS, COURSE, PUBLISHED = "class", "course", "published"  # kinds of rows


def row(kind: str, name: str, file: str, content: bytes, digits: Digits, *, sandboxed: bool) -> dict:
    """Return the row of a file, decoded in a process of its own and measured; errors are in percent.

    Raises:
        ValueError: it cannot take part; the message says why.
    """
    return measured(apart.decode(content, sandboxed=sandboxed), len(content), digits) | dict(kind=kind, name=name, file=file)


def measured(entry: Entry, size: int, digits: Digits) -> dict:
    """Return what a row holds of an entry of `size` bytes."""
    model = network(entry)
    found = dict(network=entry.network, widths=entry.widths, bytes=size, size_class=size_class(size))
    for name, split in (("test", digits.test), ("warped", digits.warped)):
        missed = wrong(model, split)
        found |= {f"{name}_wrong": missed, f"{name}_error": 100 * missed / len(split.labels)}
    return found


def size_class(size: int) -> int:
    """Return the most bytes of the class that a file of `size` bytes is in."""
    return next(most for most in SIZE_CLASSES if size <= most)


def references(digits: Digits, folder: Path = FOLDER / "course") -> list[dict]:
    """Return the rows to compare with: the course's own files in `folder`, measured, and what others published."""
    rows = [
        row(COURSE, path.stem, path.name, path.read_bytes(), digits, sandboxed=False)
        for path in sorted(folder.glob(f"*{SUFFIX}"))
    ]
    published = pd.read_csv(FOLDER / "published.csv").drop(columns="source")
    return rows + [one | dict(kind=PUBLISHED, size_class=size_class(one["bytes"])) for one in published.to_dict("records")]


def table(rows: Iterable[dict]) -> pd.DataFrame:
    """Return rows as a table with all columns, the best of each size class first, its place there, and the front's numbers.

    Places and fronts go by the error on the warped digits, which published figures lack; a network's are its own. Files with
    as many bytes and as many digits wrong share a place.
    """
    frame = pd.DataFrame(list(rows), columns=[*COLUMNS, "place", "front"]).astype(WHOLE)
    scored = frame[(frame.kind == CLASS) & frame.warped_error.notna()]
    for _, group in scored.groupby(["network", "size_class"]):
        keys = list(zip(group.warped_error, group.bytes, strict=True))
        frame.loc[group.index, "place"] = [1 + sum(other < key for other in keys) for key in keys]
    for _, group in frame[frame.warped_error.notna()].groupby("network"):
        on = group.iloc[front(group.bytes, group.warped_error)]
        frame.loc[on.index, "front"] = on.bytes.rank(method="dense").astype("Int64")
    return frame.sort_values(["network", "size_class", "place", "bytes", "name"], ignore_index=True)


def front(sizes: Sequence[int], errors: Sequence[float]) -> list[int]:
    """Return which files have none that is smaller and no worse, or as small and better; by size. Twins are all in it."""
    pairs = list(zip(sizes, errors, strict=True))
    chosen, best, last = [], math.inf, None
    for place in sorted(range(len(pairs)), key=lambda i: pairs[i]):
        if pairs[place][1] < best or pairs[place] == last:
            chosen.append(place)
            best, last = pairs[place][1], pairs[place]
    return chosen
