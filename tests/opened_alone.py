"""The first code cell of every notebook, for one that was opened without the course around it: `python -m tests.opened_alone`.

The command puts the cell into notebooks that have none, and brings it in step in those that have. It numbers the executed cells
anew, and changes nothing else.
"""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from course_lib.files import ROOT, replacing

NAME = "opened-alone"
CELL = """\
import importlib
import subprocess
import sys

try:
    importlib.import_module("course_lib.notebook")
except ModuleNotFoundError as missing:
    print(f"{missing.name} is missing: this notebook needs the course around it; in a checkout, choose the kernel of its .venv.")
    if not (address := input("Anywhere else, the address of the course's git repository, to fetch it (Enter: do not): ")):
        raise
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, "course"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", "course"], check=True)
    sys.path.insert(0, "course")"""


def put_in(path: Path) -> bool:
    """Gives a notebook the cell before its first code cell; returns whether that changed it."""
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.from_dict(notebook)
    cells = [cell for cell in notebook.cells if cell.id != NAME]
    first = next(place for place, cell in enumerate(cells) if cell.cell_type == "code")
    made = new_code_cell(CELL, id=NAME, execution_count=1, metadata={"jupyter": {"source_hidden": True}, "tags": ["setup"]})
    notebook.cells = [*cells[:first], made, *cells[first:]]
    counted = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count is not None]
    for number, cell in enumerate(counted, 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    if notebook == before:
        return False
    with replacing(path) as scratch:
        nbformat.write(notebook, str(scratch))
    return True


if __name__ == "__main__":
    for original in sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(f"{original.name}: {'changed' if put_in(original) else 'in step'}")
