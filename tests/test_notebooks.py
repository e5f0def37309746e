"""The committed notebooks, and the machinery that executes, cleans and checks them."""

import contextlib
import io
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.commands import execute

COMMITTED = sorted(execute.NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_notebook_is_fit_to_read(path):
    assert execute.check(path) == []


def write(path: Path, *cells) -> Path:
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def ran(source="1", number=1, outputs=(), **metadata):
    return new_code_cell(source, execution_count=number, outputs=list(outputs), metadata=metadata)


def shown(kind, content):
    return new_output("display_data", {kind: content})


@pytest.mark.filterwarnings("ignore:Non-unique cell id")  # the fault itself
def test_cells_of_one_id_are_found(tmp_path):
    path = write(tmp_path / "ids.ipynb", ran(), new_markdown_cell("text"))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["id"] = "same"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert execute.check(path) == ["ids.ipynb: 2 cells have the id 'same'"]


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ([new_code_cell("1")], "was not run"),
        ([ran(number=2)], "ran as number 2"),
        ([ran(number=1), ran(number=3)], "code cell 2: ran as number 3"),
        ([ran("1\n" * 16)], "has 16 lines"),
        ([ran(tags=["raises-exception"])], "raises-exception"),
        ([ran(outputs=[new_output("error", ename="NameError", evalue="x", traceback=[])])], "NameError"),
        ([ran(outputs=[new_output("stream", name="stderr", text="UserWarning: old")])], "UserWarning: old"),
        ([ran(outputs=[new_output("stream", name="stdout", text=" 33%|##    | 1/3")])], "progress bar"),
        ([ran(outputs=[new_output("stream", name="stdout", text="read /home/ada/course/data")])], "/home/ada/course/data"),
        ([ran(outputs=[shown("text/html", "<td>C:\\Users\\ada</td>")])], "C:\\Users"),
        ([ran(outputs=[shown("text/plain", "PosixPath('/data/MNIST/raw')")])], "/data/MNIST/raw"),
        ([ran(outputs=[shown(execute.WIDGET, {"model_id": "0"})])], "widget"),
    ],
)
def test_a_fault_is_found(cells, fault, tmp_path):
    (found,) = execute.check(write(tmp_path / "broken.ipynb", *cells))
    assert found.startswith("broken.ipynb, code cell ")
    assert fault in found


@pytest.mark.parametrize(
    "text",
    [
        "3/4/5 of a/b/c, <b>x</b> ../a/b ./a/b ~/a/b",
        "https://arxiv.org/abs/1506.02626",
        "<img src='data:image/png;base64,iVB+/9j/4AA/Q'>",
    ],
)
def test_what_only_looks_like_a_path_is_let_through(text, tmp_path):
    cells = [new_markdown_cell("# Title"), ran(outputs=[shown("text/html", text)]), new_code_cell(""), ran(number=2)]
    assert execute.check(write(tmp_path / "good.ipynb", *cells)) == []


GOOD = [
    new_markdown_cell("# Good"),
    new_code_cell("import os, pathlib\nprint(os.environ['COURSE_SCALE'], pathlib.Path('neighbour.txt').read_text())"),
    new_code_cell("from tqdm.auto import tqdm\nprint(sum(tqdm(range(3))))"),
    new_code_cell("import tqdm as plain\nprint(sum(plain.tqdm(range(4))))"),
    new_code_cell(""),
    new_code_cell("import ipywidgets\n_ = ipywidgets.interact(lambda x: x, x=3)", metadata={"tags": ["panel"]}),
    new_code_cell("import pandas\npandas.DataFrame({'verdict': ['holds']})", metadata={"tags": ["claims"]}),
]
BAD = [new_code_cell("1"), new_code_cell("def f(): return {}['depth']\nf()"), new_code_cell("'never'")]
DEAD = [new_code_cell("import os; os._exit(1)")]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Three notebooks, executed together in place: one runs through, one fails, one kills its kernel."""
    folder = tmp_path_factory.mktemp("note books")
    (folder / "neighbour.txt").write_text("found")
    write(folder / "00_bad.ipynb", *BAD)
    write(folder / "01_good.ipynb", *GOOD)
    write(folder / "02_dead.ipynb", *DEAD)
    before = {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        failed = execute.command(in_place=True, notebooks=folder, executed=folder / "build")
    return folder, before, failed, printed.getvalue()


def test_notebooks_that_fail_are_named_and_the_others_still_run(outcome):
    _, _, failed, printed = outcome
    assert failed == 2
    assert "00_bad.ipynb FAILED in cell [2]" in printed
    assert "KeyError: 'depth'" in printed
    assert "\x1b[" not in printed
    assert "02_dead.ipynb FAILED in cell [1]" in printed
    assert "01_good.ipynb ran" in printed
    assert "2 of 3 notebooks failed: 00_bad.ipynb, 02_dead.ipynb" in printed


def test_the_claims_table_is_printed(outcome):
    assert "verdict\n0   holds" in outcome[-1]


def test_executed_copies_and_pages_are_written(outcome):
    folder = outcome[0]
    for name in ("00_bad", "01_good", "02_dead"):
        assert nbformat.read(folder / "build" / f"{name}.ipynb", 4).cells
        assert "<html" in (folder / "build" / f"{name}.html").read_text(encoding="utf-8")
    assert "KeyError" in (folder / "build" / "00_bad.html").read_text(encoding="utf-8")


def test_in_place_replaces_what_ran_through_and_nothing_else(outcome):
    folder, before, _, _ = outcome
    changed = {path.name for path in folder.glob("*.ipynb") if path.read_bytes() != before[path.name]}
    assert changed == {"01_good.ipynb"}


def test_a_cleaned_notebook_passes_the_check_and_keeps_what_was_printed(outcome):
    folder = outcome[0]
    path = folder / "01_good.ipynb"
    assert execute.check(path) == []
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, None, 4, 5]
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in GOOD]
    assert [out.text for cell in code[:3] for out in cell.outputs] == ["smoke found\n", "3\n", "6\n"]
    assert [out.data for out in code[4].outputs] == [{"text/plain": "3"}]  # what the panel shows at first
    assert "widgets" not in notebook.metadata
    assert all("execution" not in cell.metadata for cell in code)


def test_cleaning_keeps_a_warning_for_the_check_to_find():
    bar_and_warning = new_output("stream", name="stderr", text="\r 0%|  | 0/3\rUserWarning: old\n100%|##| 3/3\n")
    notebook = execute.clean(new_notebook(cells=[ran(outputs=[bar_and_warning])]))
    assert [out.text for out in notebook.cells[0].outputs] == ["UserWarning: old\n"]


def test_an_unknown_notebook_lists_those_there_are(tmp_path):
    write(tmp_path / "01_good.ipynb", *GOOD)
    with pytest.raises(ValueError, match=r"begins with '07'.*01_good.ipynb"):
        execute.command("07", notebooks=tmp_path, executed=tmp_path / "build")
    assert not os.path.exists(tmp_path / "build")
