"""Where the course lies, and files that are never half-written: write aside, then rename."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the project: notebooks/, course_lib/, data/, tests/


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a scratch path in the folder of `path`; renames it to `path` when the block ends without an error.

    Readers see the old file or the new one, never a part of it, also when the process is killed in the block.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        yield Path(scratch)
        os.chmod(scratch, 0o644)  # mkstemp, and some writers, make it private; a data file is not
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)
