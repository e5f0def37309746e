"""The panels and films of the notebooks, computed for the site: each once, side by side, and kept until something changes."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from nbformat import NotebookNode

from course_lib import scale
from course_lib.files import ROOT, replacing

PANEL, FILM = "panel", "film"
KEPT = ROOT / "build" / "book-panels"
FILMED = re.compile(r"^Film\(", re.MULTILINE)
APART = {"classroom", "commands", "desk", "lab"}  # rooms that no panel stands on
PAGES = {"docstrings.py", "playing.py", "site.py", "staging.py"}  # of this room
LIMITS = re.compile(r"threads: 1 \| (\d+) G MACs/s, ([\d.]+) GB/s")  # as notebook 00 prints those of its machine


class Played(NamedTuple):
    """A cell of a notebook that shows a panel or a film."""

    name: str  # of the notebook
    above: tuple[str, ...]  # the sources of the code cells above
    source: str
    limits: tuple[float, float] | None  # MACs and bytes per second of the machine that the page tells of
    kind: str  # 'panel' or 'film'


def find(name: str, notebook: NotebookNode) -> dict[int, Played]:
    """Return the cells of a notebook that show a panel or a film, by their place among its cells."""
    found, above, limits = {}, [], None
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        kinds = [PANEL] * (PANEL in cell.metadata.get("tags", [])) + [FILM] * bool(FILMED.search(cell.source))
        if kinds:
            found[place] = Played(name, tuple(above), cell.source, limits, kinds[0])
        above.append(cell.source)
        if line := LIMITS.search("".join(output.get("text", "") for output in cell.outputs)):
            limits = 1e9 * float(line[1]), 1e9 * float(line[2])
    return found


def compute_all(cells: Iterable[Played], workers: int | None = None) -> dict[Played, str]:
    """Return the data of each panel and film, as JSON; computes those that are not kept, each on one core."""
    kept = {cell: path.read_text(encoding="utf-8") for cell in cells if (path := _path(cell)).is_file()}
    missing = [cell for cell in cells if cell not in kept]
    if not missing:
        return kept
    context = multiprocessing.get_context("spawn")
    missing.sort(key=lambda cell: cell.kind != PANEL)  # films take no time
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(missing)), context, _begin) as pool:
        return kept | dict(zip(missing, pool.map(compute, missing), strict=True))


def _begin() -> None:
    import matplotlib
    import torch

    from course_lib.notebook import plots

    if scale.name() == "smoke":
        warnings.simplefilter("ignore")  # that a few images are few is no news
    matplotlib.use("svg")
    torch.set_num_threads(1)
    plots.use_style()


def compute(cell: Played) -> str:
    """Return the data of a panel or a film as JSON; keeps it, unless stand-in data are in use where real data belong.

    Raises:
        RuntimeError: the cell, or one that it stands on, fails.
    """
    from course_lib.book import grids

    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            widget, names = _shown(cell)
            found = grids.Grid(widget).packed() if cell.kind == PANEL else grids.film(widget)
    except Exception as error:
        raise RuntimeError(
            f"the {cell.kind} of {cell.name} cannot be computed for the site: {type(error).__name__}: {error}"
        ) from error
    stand_in = next((one.splits for one in names.values() if hasattr(one, "splits") and one.splits.is_stand_in), None)
    if cell.kind == PANEL and stand_in:
        found["note"] += f" It stands on {stand_in.name} instead of {stand_in.requested}."
    data = grids.dumped(found)
    if not stand_in or scale.name() == "smoke":
        with replacing(_path(cell)) as scratch:
            scratch.write_text(data, encoding="utf-8")
    return data


def _shown(cell: Played) -> tuple[Any, dict[str, Any]]:
    from course_lib import machine
    from course_lib.book.slices import cell_value

    given = {"roof": machine.Roof(*cell.limits)} if cell.limits else {}
    return cell_value(cell.above, cell.source, given)


def _path(cell: Played) -> Path:
    """Where the data of a cell are kept: a name that changes with the cell, the library, its data and its packages."""
    inputs = hashlib.sha256(json.dumps([cell, scale.name(), *map(version, ("torch", "matplotlib"))]).encode())
    for path in sorted([*(ROOT / "course_lib").rglob("*.py"), *(ROOT / "data").glob("*/*.json")]):
        if not (APART & set(path.parts) or (path.parent.name == "book" and path.name in PAGES)):
            inputs.update(path.read_bytes())
    return KEPT / f"{cell.name}.{cell.kind}.{inputs.hexdigest()[:16]}.json"
