"""The copy of a notebook that a reader writes in.

Answers are empty and name their exercise, visible tests are in place, a labelled line stands for each hidden test and runs it,
outputs are gone, and relative links lead where they led before.
"""

import copy
import os
import re
from collections.abc import Collection
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from course_lib.classroom import cells

EMPTY = 'raise NotImplementedError("Exercise {number} has no answer yet")'
STUB = f"# Write your answer here, in place of this comment and the next line\n{EMPTY}"
STUBBED = re.compile(r'raise NotImplementedError\(("Exercise \d+ has no answer yet")?\)')  # nbgrader's own stub has no words
OPEN = "*Write your answer here.*"
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^)"'#\s]+)""")  # Markdown and HTML, up to a fragment or a title
FOLDED = re.compile(r"The answers are folded away(?:; try first)?\.")


def hand_out(master: NotebookNode, unit: str, units: Collection[str], *, home: Path, place: Path) -> NotebookNode:
    """Return the copy to write in of a notebook.

    Args:
        master: the notebook with model answers and hidden tests; it is not changed.
        unit: its name, without the ending.
        units: the names of all notebooks that have a copy; links between these stay as they are.
        home: the folder of the originals.
        place: the folder of the copies.
    """
    made = copy.deepcopy(master)
    made.metadata.pop("widgets", None)
    sealed = cells.sealed(master)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if name := cells.grade_id(cell):
            cell.metadata.pop("jupyter", None)  # folded away in the original
            cell.source = sealed.get(name, cell.source)
        if cells.is_answer(cell):
            _clear(cell)
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda link: link[1] + _leading(link[2], units, home, place), cell.source)
            original = os.path.relpath(home / f"{unit}.ipynb", place).replace(os.sep, "/")
            cell.source = FOLDED.sub(f"Model answers are folded away in the [original]({original}); try first.", cell.source)
    return made


def _leading(target: str, units: Collection[str], home: Path, place: Path) -> str:
    """A link as it must be written in the copy; what leads to no file of the course stays as it is."""
    if target in {f"{unit}.ipynb" for unit in units} or not (home / target).exists() or os.path.isabs(target):
        return target
    return os.path.relpath(home / target, place).replace(os.sep, "/")


def _clear(cell: NotebookNode) -> None:
    """Empties an answer."""
    from nbgrader.preprocessors import ClearSolutions  # it takes two seconds, and most calls find nothing new to hand out

    stub = STUB.format(number=cells.exercise(cell))
    clear = ClearSolutions(code_stub={"python": stub}, text_stub=OPEN)
    clear.preprocess(new_notebook(cells=[cell]), {})


def is_empty(source: str) -> bool:
    """Return whether an answer in code or words is still as it was handed out, or blank."""
    return source.strip() in ("", OPEN) or STUBBED.search(source) is not None
