"""Brings a reader's copy up to date with the course, cell by cell, without losing anything that the reader wrote.

Three notebooks meet: `base`, the copy as it was handed out; `theirs`, as it would be handed out now; and `mine`, the reader's
file. A cell that the reader left alone follows the course; one that the reader changed, added or deleted stays as the reader has
it; where both changed a cell, the reader's stays and a sentence says so.

Lines within a cell are never mixed, which is why this is not left to a library such as nbdime: half of the reader's lines and
half of the course's would be code that nobody wrote.
"""

import copy
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from course_lib.classroom import cells


@dataclass
class Merged:
    """The notebook that is to replace the reader's, and what was done.

    `conflicts` are names of cells that both changed, `given_up` of those that the reader changed and the course no longer has.
    """

    notebook: NotebookNode
    updated: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)


def merge(base: NotebookNode, theirs: NotebookNode, mine: NotebookNode) -> Merged:
    """Return the reader's notebook with the course's changes; the arguments are not changed.

    A merge that was made but whose new `base` could not be kept can be made again: it then changes nothing.
    """
    new_of = {old: new for new, old in enumerate(_partners(theirs.cells, base.cells)) if old is not None}
    of_theirs = _to_theirs(base, theirs, mine, new_of)
    known = set(of_theirs)
    merged = Merged(new_notebook(metadata=copy.deepcopy({**theirs.metadata, **mine.metadata})))
    kept: list[tuple[NotebookNode, int | None]] = []  # each cell that stays, and its place in `theirs`
    for cell, old, new in zip(mine.cells, _partners(mine.cells, base.cells), of_theirs, strict=True):
        gone = old is not None and old not in new_of and new is None
        if gone and _same(cell, base.cells[old]):
            merged.removed.append(_name(cell))
            continue
        if gone:
            merged.given_up.append(_name(cell))
        before = None if old is None else base.cells[old]
        kept.append((cell if new is None else _brought(before, theirs.cells[new], cell, merged), new))
    old_of = {new: old for old, new in new_of.items()}
    fresh = [new for new in range(len(theirs.cells)) if new not in known and new not in old_of]
    deleted = [new for new in range(len(theirs.cells)) if new not in known and new in old_of]
    merged.added += [_name(theirs.cells[new]) for new in fresh]
    merged.conflicts += [_name(theirs.cells[new]) for new in deleted if not _same(theirs.cells[new], base.cells[old_of[new]])]
    merged.notebook.cells = _ordered(kept, theirs, fresh, [new_of.get(old) for old in range(len(base.cells))])
    _make_ids_unique(merged.notebook)
    return merged


def _to_theirs(base: NotebookNode, theirs: NotebookNode, mine: NotebookNode, new_of: dict[int, int]) -> list[int | None]:
    """For each of the reader's cells its place in `theirs`: by way of the base, or directly where the base does not know it."""
    found = [None if old is None else new_of.get(old) for old in _partners(mine.cells, base.cells)]
    taken = set(found) | set(new_of.values())
    direct = _partners(mine.cells, theirs.cells)
    for place, (new, other) in enumerate(zip(found, direct, strict=True)):
        if new is None and other is not None and other not in taken and _same(mine.cells[place], theirs.cells[other]):
            found[place] = other
            taken.add(other)
    return found


def _partners(here: Sequence[NotebookNode], there: Sequence[NotebookNode]) -> list[int | None]:
    """For each cell here the place of the same cell there: of the same id, else grade_id, else source; each at most once."""
    found: list[int | None] = [None] * len(here)
    for key in (lambda cell: cell.get("id"), cells.grade_id, lambda cell: (cell.cell_type, cell.source.strip())):
        free = {}
        for place, cell in enumerate(there):
            if place not in found and key(cell):
                free.setdefault(key(cell), []).append(place)
        # Of two cells with one key, as a duplicated cell and its original are, the one that is unchanged is meant
        order = sorted(range(len(here)), key=lambda i: not any(_same(here[i], there[j]) for j in free.get(key(here[i]), [])))
        for i in order:
            if found[i] is None and (places := free.get(key(here[i]))):
                found[i] = places.pop(0)
    return found


def _same(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two cells have the same kind and text; blank space at the end does not count."""
    return one.cell_type == other.cell_type and one.source.rstrip() == other.source.rstrip()


def _brought(before: NotebookNode | None, new: NotebookNode, cell: NotebookNode, merged: Merged) -> NotebookNode:
    """A cell that the course has, in the state that it is to have; notes what was done."""
    if _same(cell, new):
        return _kept(cell, new)
    if before is not None and _same(cell, before):
        merged.updated.append(_name(cell))
        return copy.deepcopy(new)
    if before is None or not _same(before, new):
        merged.conflicts.append(_name(cell))
    return _kept(cell, new)


def _kept(cell: NotebookNode, new: NotebookNode) -> NotebookNode:
    """The reader's cell under the course's names: its id, and its nbgrader metadata."""
    made = copy.deepcopy(cell)
    made.id = new.id
    if "nbgrader" in new.metadata and cell.cell_type == new.cell_type:
        made.metadata.nbgrader = copy.deepcopy(new.metadata.nbgrader)
    return made


def _ordered(
    kept: list[tuple[NotebookNode, int | None]], theirs: NotebookNode, fresh: list[int], old_order: list[int | None]
) -> list[NotebookNode]:
    """All cells in order: the course's order, or the reader's where the reader moved cells; what is new follows what it follows.

    A cell of the reader's own stays behind the cell that it stood behind.
    """
    trains: list[list] = [[None, []]]  # a cell of the course and those of the reader's own that follow it
    for cell, new in kept:
        if new is None:
            trains[-1][1].append(cell)
        else:
            trains.append([new, [cell]])
    shown = [new for new, _ in trains[1:]]
    known = [new for new in old_order if new in shown]
    if [new for new in shown if new in known] == known:  # the reader moved nothing
        trains[1:] = sorted(trains[1:], key=lambda train: train[0])
    for new in fresh:
        places = {train[0]: i for i, train in enumerate(trains)}
        before = next((places[i] for i in range(new - 1, -1, -1) if i in places), 0)
        trains.insert(before + 1, [new, [copy.deepcopy(theirs.cells[new])]])
    return [cell for _, train in trains for cell in train]


def _make_ids_unique(notebook: NotebookNode) -> None:
    """Gives another id to a cell whose id an earlier one has, and one to a cell without."""
    seen = set()
    for cell in notebook.cells:
        if cell.get("id") in seen or not cell.get("id"):
            cell.id = uuid.uuid4().hex[:8]
        seen.add(cell.id)


def _name(cell: NotebookNode) -> str:
    """What a reader knows a cell by: its first line."""
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    text = cells.grade_id(cell) or (lines[0] if lines else "(empty)")
    return text if len(text) <= 60 else f"{text[:59]}…"
