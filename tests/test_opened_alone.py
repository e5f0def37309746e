"""A notebook opened without the course around it says what is missing, and fetches it if that is wanted."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.commands import execute
from tests import opened_alone

NOTEBOOKS = sorted(execute.NOTEBOOKS.glob("*.ipynb"))
FAKE_PIP = "import json, pathlib, sys\npathlib.Path('pip.json').write_text(json.dumps(sys.argv[1:]))\n"


@pytest.fixture
def alone(tmp_path):
    """Runs the cell in an interpreter without packages, in an empty folder, with an answer to its question."""
    venv.create(tmp_path / "env", with_pip=False)
    python = next((tmp_path / "env").rglob("python.exe" if os.name == "nt" else "bin/python"))
    site = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True)
    (Path(site.stdout.strip()) / "pip.py").write_text(FAKE_PIP)
    (tmp_path / "here").mkdir()
    private = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(answer: str, after: str = "") -> subprocess.CompletedProcess:
        command = [python, "-c", f"{opened_alone.CELL}\n{after}"]
        return subprocess.run(
            command, cwd=tmp_path / "here", env=private, input=answer, capture_output=True, text=True, timeout=50
        )

    return run


def test_it_says_in_a_line_what_is_missing_and_fetches_nothing_unasked(alone, tmp_path):
    done = alone("\n")
    said, asked = done.stdout.split("\n", 1)
    assert said.startswith("course_lib is missing: this notebook needs the course around it") and "to fetch it" in asked
    assert done.returncode == 1 and done.stderr.rstrip().endswith("No module named 'course_lib'")
    assert list((tmp_path / "here").iterdir()) == []


def test_it_fetches_the_course_and_goes_on(alone, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    course = tmp_path / "the course"
    (course / "course_lib").mkdir(parents=True)
    (course / "course_lib" / "notebook.py").write_text("start = 'started'\n")
    (course / "course_lib" / "__init__.py").touch()
    git = ["git", "-C", str(course), "-c", "user.name=a", "-c", "user.email=a@x.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *arguments], check=True, timeout=50)
    done = alone(f"{course.as_uri()}\n", "from course_lib.notebook import start\nprint(start)")
    assert done.returncode == 0 and done.stdout.endswith("started\n"), done.stderr
    assert json.loads((tmp_path / "here" / "pip.json").read_text()) == ["install", "--quiet", "--editable", "course"]


def test_where_the_course_is_it_says_nothing():
    done = subprocess.run(
        [sys.executable, "-c", opened_alone.CELL],
        cwd=execute.ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_notebook_is_given_the_cell_once_and_stays_fit_to_read(tmp_path):
    result = new_output("execute_result", {"text/plain": "2"}, execution_count=2)
    cells = [new_markdown_cell("# Title"), new_code_cell("x = 2", execution_count=1), new_code_cell("")]
    cells += [new_code_cell("x", execution_count=2, outputs=[result])]
    path = tmp_path / "01_small.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    assert opened_alone.put_in(path) and not opened_alone.put_in(path) and execute.check(path) == []
    after = nbformat.read(path, as_version=4).cells
    assert [cell.id for cell in after] == [cells[0].id, opened_alone.NAME, *(cell.id for cell in cells[1:])]
    assert [cell.execution_count for cell in after[1:]] == [1, 2, None, 3] and after[4].outputs[0].execution_count == 3


def has_cell(path: Path) -> bool:
    return f'"id": "{opened_alone.NAME}"' in path.read_text(encoding="utf-8")


@pytest.mark.skipif(not any(map(has_cell, NOTEBOOKS)), reason="no notebook has the cell yet: python -m tests.opened_alone")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_code_cell_of_every_notebook_is_this_one(path):
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert (first.id, first.source) == (opened_alone.NAME, opened_alone.CELL)
