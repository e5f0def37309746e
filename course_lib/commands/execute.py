"""Notebooks without a browser: execute them, make the executed copy fit for committing, and check the committed copies."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from tqdm import tqdm

from course_lib.desk.stills import WIDGET, without_widgets
from course_lib.files import ROOT, replacing

NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "notebooks"
LONGEST_CELL = 15  # lines of code that a reader takes in at a glance

BAR = re.compile(r"\d+%\|")  # what every tqdm bar holds: "loss: 33%|###    | 1/3 [00:00<00:00, 9.99it/s]"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<~-])/(?:[\w.+-]+/)+[\w.+-]+|file:///|\b[A-Z]:\\Users\\")
# On a phone the narrow column of numbers would take a fifth of the page; a browser in a dark system draws figures light
PAGE_STYLE = """<style>
:root {color-scheme: light}
@media (max-width: 600px) {
  .jp-InputPrompt, .jp-OutputPrompt, .jp-Collapser {display: none}
  body {padding: 8px !important}
  .jp-Cell {padding: 4px 0 !important}
}
</style>
"""
INLINE_DATA = re.compile(r"data:[\w/+.-]+;base64,[\w/+=]+")  # pictures within HTML; their letters can look like a path


def command(only: str | None = None, *, in_place: bool = False, notebooks: Path = NOTEBOOKS, executed: Path = EXECUTED) -> int:
    """Executes the notebooks, or the one whose name begins with `only`; gives how many of them failed.

    Every executed copy and its HTML page go to `executed`; with `in_place` a notebook that ran through also replaces its
    committed copy, cleaned by `clean`. A notebook that fails does not keep the others from running.

    Raises:
        ValueError: there is no such notebook.
    """
    paths = sorted(path for path in notebooks.glob("*.ipynb") if path.name.startswith(only or ""))
    if not paths:
        there = ", ".join(sorted(path.name for path in notebooks.glob("*.ipynb")))
        raise ValueError(f"no notebook's name begins with {only or ''!r}; those in {notebooks} are: {there or 'none'}")
    failures = [path.name for path in paths if not _run(path, executed, in_place)]
    if failures:
        print(f"{len(failures)} of {len(paths)} notebooks failed: {', '.join(failures)}")
    return len(failures)


def _run(path: Path, executed: Path, in_place: bool) -> bool:
    """Executes one notebook, writes what came of it, tells the reader; True where no cell failed."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    failure = execute(notebook, path)
    page = executed / f"{path.stem}.html"
    _write(without_widgets(notebook), executed / path.name)
    with replacing(page) as scratch:
        scratch.write_text(_page(notebook), encoding="utf-8")
    for cell in notebook.cells:
        if "claims" in cell.metadata.get("tags", []):
            print(_text(cell))
    if failure:
        print(f"{path.name} FAILED in {failure}")
    else:
        print(f"{path.name} ran in {time.perf_counter() - start:.0f} s; to read: {page}")
        if in_place:
            _write(clean(notebook), path)
    return not failure


def _page(notebook: NotebookNode) -> str:
    """The notebook as HTML, for a phone too."""
    return HTMLExporter().from_notebook_node(notebook)[0].replace("</head>", f"{PAGE_STYLE}</head>", 1)


def execute(notebook: NotebookNode, path: Path) -> str | None:
    """Runs all cells of `notebook` in a fresh kernel in the folder of `path`, and fills in their outputs.

    Stops at the first cell that fails, or that takes the kernel with it, and gives that cell's number and the last lines of
    the error; None where all went well. The number is the one JupyterLab shows in front of the cell.
    """
    with tqdm(total=len(notebook.cells), desc=path.stem, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            kernel_name="python3",  # the interpreter that runs this
            resources={"metadata": {"path": str(path.parent)}},
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            on_cell_start=lambda cell, cell_index: bar.update(cell_index - bar.n),
        )
        # nbclient plays a browser to Output widgets, and answering one while the cell's reply comes in can lose that reply:
        # it then waits for ever (nbclient issue 312). Without the play, what a panel draws at first is the cell's output.
        client.widget_registry = {}
        try:
            client.execute()
        except (CellExecutionError, DeadKernelError) as error:
            number = sum(_is_code(cell) for cell in notebook.cells[: bar.n + 1])
            return f"cell [{number}]:\n{_last_lines(error)}"
        bar.update(len(notebook.cells) - bar.n)
    return None


def _last_lines(error: Exception, count: int = 6) -> str:
    lines = COLOUR.sub("", str(error)).strip().splitlines()
    return "\n".join(f"    {line}" for line in lines[-count:])


def _is_code(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _text(cell: NotebookNode) -> str:
    """What a cell printed or displayed, as plain text."""
    return "\n".join(
        out.text if out.output_type == "stream" else out.get("data", {}).get("text/plain", "") for out in cell.outputs
    )


def _write(notebook: NotebookNode, path: Path) -> None:
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as stream:
        nbformat.write(notebook, stream)


def clean(notebook: NotebookNode) -> NotebookNode:
    """Takes out of an executed notebook what is of no use to its readers or differs from run to run; changes it in place.

    Widgets go as `without_widgets` says, bars on stderr, times of execution and the version of the interpreter. Other words
    on stderr stay, for `check` to find.
    """
    without_widgets(notebook)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in map(_without_bars, cell.outputs) if out]
    return notebook


def _without_bars(output: NotebookNode) -> NotebookNode | None:
    if output.get("name") != "stderr":
        return output
    lines = [line for line in re.split(r"[\r\n]+", output.text) if line.strip() and not BAR.search(line)]
    output.text = "".join(f"{line}\n" for line in lines)
    return output if lines else None


def check(path: Path) -> list[str]:
    """Everything about a committed notebook that a reader would stumble over, one sentence each; empty where it is fine."""
    ids = Counter(cell.get("id") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])  # nbformat would mend them
    twice = [f"{path.name}: {count} cells have the id {name!r}" for name, count in ids.items() if count > 1]
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if _is_code(cell)]
    return twice + [f"{path.name}, code cell {i}: {fault}" for i, cell in enumerate(cells, 1) for fault in _faults(cell, i)]


def _faults(cell: NotebookNode, number: int) -> list[str]:
    """What is wrong with a code cell that should be the `number`-th to run."""
    faults = []
    if cell.execution_count is None:
        faults.append("was not run")
    elif cell.execution_count != number:
        faults.append(f"ran as number {cell.execution_count}: the notebook was not run from top to bottom in a fresh kernel")
    if len(cell.source.splitlines()) > LONGEST_CELL:
        faults.append(f"has {len(cell.source.splitlines())} lines, allowed are {LONGEST_CELL}")
    if "raises-exception" in cell.metadata.get("tags", []):
        faults.append("is tagged raises-exception, which lets any error pass unseen; catch the one it should show")
    for output in cell.outputs:
        faults += _output_faults(output)
    return faults


def _output_faults(output: NotebookNode) -> list[str]:
    if output.output_type == "error":
        return [f"ends in an error, {output.ename}: {output.evalue}"]
    if output.get("name") == "stderr":
        return [f"has output on stderr: {output.text.strip()[:80]!r}"]
    data = output.get("data", {})
    if WIDGET in data:
        return ["holds a widget, which shows an error without its kernel"]
    text = output.get("text", "") + "".join(data.get(kind, "") for kind in ("text/plain", "text/html", "text/markdown"))
    faults = ["holds a progress bar"] if BAR.search(text) else []
    if found := ABSOLUTE_PATH.search(INLINE_DATA.sub("", text)):
        faults.append(f"holds a path of one machine: {found[0]}")
    return faults
