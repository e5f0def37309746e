"""Tables for a terminal: text wrapped within its column, and columns that do not fit put below the others."""

import textwrap
from collections.abc import Sequence

import pandas as pd

WIDTH = 100  # columns of a terminal that a printed table may take
GAP = "  "


def as_text(table: pd.DataFrame, *, index: bool = False, width: int = WIDTH, decimals: int = 2) -> str:
    """Return a table as lines of at most `width` characters, or of the longest word where that is longer.

    Args:
        table: numbers are aligned right, everything else left.
        index: whether its index is the first column.
        width: characters of a line.
        decimals: of numbers that are no integers.
    """
    if index:
        table = table.rename_axis(table.index.name or "").reset_index()
    right = [pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in table.dtypes]
    columns = [
        [str(name), *(_written(value, decimals) for value in table.iloc[:, place])] for place, name in enumerate(table.columns)
    ]
    lines = []
    for places in _blocks([_narrowest(column) for column in columns], width):
        lines += ([""] if lines else []) + _block([columns[i] for i in places], [right[i] for i in places], width)
    return "\n".join(lines)


def _written(value: object, decimals: int) -> str:
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def _narrowest(column: Sequence[str]) -> int:
    """How narrow a column can be without a break within a word."""
    return max((len(word) for text in column for word in text.split()), default=0)


def _blocks(narrowest: Sequence[int], width: int) -> list[list[int]]:
    """Places of the columns that stand beside each other; the first column leads each block."""
    blocks = [[0]] if narrowest else []
    for place in range(1, len(narrowest)):
        taken = sum(narrowest[i] + len(GAP) for i in blocks[-1])
        if taken + narrowest[place] > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(place)
    return blocks


def _block(columns: Sequence[Sequence[str]], right: Sequence[bool], width: int) -> list[str]:
    """The lines of columns that stand beside each other, the widest of them wrapped as far as needed."""
    widths = _widths(columns, width - len(GAP) * (len(columns) - 1))
    lines = []
    for row in zip(*columns, strict=True):
        cells = [textwrap.wrap(text, w) or [""] if w else [""] for text, w in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = [part.rjust(w) if r else part.ljust(w) for part, w, r in zip(parts, widths, right, strict=True)]
            lines.append(GAP.join(padded).rstrip())
    return lines


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """How wide each column is; where there is too little room headings are wrapped first, and then the widest of the texts."""
    widths = [max(map(len, column)) for column in columns]
    narrowest = [_narrowest(column) for column in columns]
    texts = [max(map(len, column[1:]), default=0) for column in columns]
    for least in ([max(pair) for pair in zip(texts, narrowest, strict=True)], narrowest):
        while sum(widths) > room and (wider := [i for i, low in enumerate(least) if widths[i] > low]):
            widths[max(wider, key=lambda i: widths[i])] -= 1
    return widths
