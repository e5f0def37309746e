"""What Sphinx makes of docstrings that are written as plain text: reStructuredText would read signs in them."""

import re
from typing import Any

NAMED = re.compile(r"(`[^`]*`)")


def process(app: Any, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Changes the lines of a docstring in place, as Sphinx asks for."""
    lines[:] = tables(lines) if what == "module" else [escaped(line) for line in lines]


def skip(app: Any, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool:
    """Return whether a member gets no entry: the fields of a named tuple stand in the line of their class."""
    return skipped or type(member).__name__ == "_tuplegetter"


def escaped(line: str) -> str:
    r"""Return a line in which signs stand for themselves, outside `names`.

    >>> escaped("the mean of |w| over folder/*.jpg, `2 * n`")
    'the mean of \\|w\\| over folder/\\*.jpg, `2 * n`'
    """
    return "".join(part if place % 2 else re.sub(r"([*|])", r"\\\1", part) for place, part in enumerate(NAMED.split(line)))


def tables(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with paragraphs that are laid out in columns, or indented, kept as they are.

    >>> tables(["Two kinds.", "", "a    one", "bcd  two"])
    ['Two kinds.', '', '::', '', '    a    one', '    bcd  two', '']
    """
    found, paragraph = [], []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            if any(re.search(r"^\s|\S {2,}\S", one) for one in paragraph):
                found += ["::", "", *(f"    {one}" for one in paragraph), ""]
            else:
                found += [*map(escaped, paragraph), ""]
            paragraph = []
    return found
