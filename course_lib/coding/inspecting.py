"""What each tensor takes in a compressed file."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.coding import read
from course_lib.coding.coders import entropy
from course_lib.coding.reading import CODED, RAW, Row, locating


def inspect(path: str | Path, max_weights: int = 2**28) -> pd.DataFrame:
    """Return what each tensor takes in a file, one row per tensor; arguments and errors as for `storage.load`.

    Bits are those of a stream without its table. All bytes, with `attrs["header bytes"]`, add up to the file.
    """
    with locating(Path(path).name):
        stored = read(Path(path), max_weights)[2]
    table = pd.DataFrame.from_dict({row.name: _costs(row, arrays) for row, arrays in stored}, "index")
    table.attrs["header bytes"] = Path(path).stat().st_size - sum(sum(row.lengths) for row, _ in stored)
    return table


def _costs(row: Row, arrays: list[np.ndarray]) -> dict:
    """A row of `inspect`."""
    size = dict.fromkeys(CODED + RAW, 0) | dict(zip(row.parts, row.lengths, strict=True))
    raw, nothing = row.parts == RAW, np.empty(0)
    values, codes, gaps = (*arrays, nothing, nothing) if raw else arrays
    streams = {"code": codes, "gap": gaps}
    return {
        "shape": tuple(row.shape),
        "weights": math.prod(row.shape),
        "entries": row.entries,
        "nonzeros": int(np.count_nonzero(values if raw else values[codes])),
        "index bits": 0 if raw else row.kind,
        "codebook entries": 0 if raw else len(values),
        "bytes of codes": size["codes"],
        "bytes of gaps": size["gaps"],
        "bytes of tables": size["table of codes"] + size["table of gaps"],
        "bytes of codebook": size["codebook"],
        "raw bytes": size["values"],
        **{f"bits per {name}": 8 * size[f"{name}s"] / len(s) if len(s) else math.nan for name, s in streams.items()},
        **{f"entropy per {name}": entropy(s) if len(s) else math.nan for name, s in streams.items()},
    }
