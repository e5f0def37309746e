"""Files of rows: which row is which, and how rows are read, added as they finish, and brought from one file to another."""

import json
from collections.abc import Iterable
from pathlib import Path

from course_lib.files import replacing


def key_of(row: dict) -> str:
    """What makes a row the same one: its name, seed, scale, and the code and budget behind it."""
    return json.dumps([row["name"], row["seed"], row["scale"], row.get("fingerprint")])


def read(path: Path) -> list[dict]:
    """The rows of a file; none where there is no file. Raises ValueError for a damaged one."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for row in found:
            key_of(row)
    except (ValueError, KeyError, TypeError) as reason:
        advice = f"restore it with `git checkout -- {path.name}`, or delete it to run all rows again"
        raise ValueError(f"results file {path} is damaged ({reason!r}); {advice}") from reason
    return found


def add(path: Path, *rows: dict) -> None:
    """Adds rows to the file, as another process may do at the same time; each replaces its like of other code or budget."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        new = {key_of(row): row for row in rows}
        replaced = {_without_code(row) for row in rows}
        found = {key_of(old): old for old in read(path) if _without_code(old) not in replaced} | new
        text = ",\n".join(json.dumps(found[key]) for key in sorted(found))
        with replacing(path) as scratch:
            scratch.write_text(f"[\n{text}\n]\n", encoding="utf-8")


def bring(source: Path, target: Path, keys: Iterable[str]) -> None:
    """Adds to `target`, in one step, those of the rows of `source` that `keys` names and `target` lacks."""
    if source == target:
        return
    missing = set(keys) - {key_of(row) for row in read(target)}
    if rows := [row for row in read(source) if key_of(row) in missing]:
        add(target, *rows)


def _without_code(row: dict) -> str:
    return key_of(row | dict(fingerprint=0))
