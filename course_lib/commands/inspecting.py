"""What a compressed file holds: `python -m course_lib inspect`. It needs no torch, whose import takes longer than the answer."""

from pathlib import Path

from course_lib.coding.inspecting import inspect
from course_lib.tables import as_text


def command(file: Path) -> None:
    """Print a line per tensor: what it takes in the file, in bits, and the entropy that bounds it."""
    table = inspect(file)
    print(f"{file.name}: {file.stat().st_size:,} bytes, of them header {table.attrs['header bytes']:,}")
    print(as_text(table, index=True))
