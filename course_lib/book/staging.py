"""The sources of the site: notebooks, texts and a stub for each module, laid out below build/ as in the repository."""

import ast
import html
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

from course_lib.book import playing
from course_lib.book.playing import Played
from course_lib.files import ROOT

FRONT = "index.md"  # README becomes it
TEXTS = {  # of the repository -> of the site
    "README.md": FRONT,
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "notebooks/README.md": "notebooks/README.md",
    "notebooks/INSTRUCTORS.md": "notebooks/INSTRUCTORS.md",
    "notebooks/SAMPLE_CLASS.md": "notebooks/SAMPLE_CLASS.md",
    "course_lib/README.md": "course_lib/README.md",
    "data/README.md": "data/README.md",
    "data/results/README.md": "data/results/README.md",
    "data/challenge/README.md": "data/challenge/README.md",
}
LIBRARY = "library"
PAGES = (".ipynb", ".md", ".rst")
SCRIPTS = ("__main__", "jupyter_lab_config")  # that are run, not imported
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s]+)\)")
CONTENTS = """
```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""


class Stage:
    """The folder of sources; `left_out` lists links to files that are not there."""

    def __init__(self, folder: Path, root: Path = ROOT):
        self.folder, self.root, self.left_out = folder, root, []

    def fill(self) -> None:
        """Writes all sources, and removes pages of a former time."""
        written = {self._write(place, source) for place, source in self._sources()}
        for path in [path for path in self.folder.rglob("*") if path.suffix in PAGES and path not in written]:
            path.unlink()

    def _sources(self) -> Iterator[tuple[str, str]]:
        notebooks = {path.name: nbformat.read(path, as_version=4) for path in sorted((self.root / "notebooks").glob("*.ipynb"))}
        cells = {name: playing.find(Path(name).stem, notebook) for name, notebook in notebooks.items()}
        data = playing.compute_all([cell for found in cells.values() for cell in found.values()])
        for name, notebook in notebooks.items():
            yield f"notebooks/{name}", nbformat.writes(self._page(f"notebooks/{name}", notebook, cells[name], data))
        for source, place in TEXTS.items():
            text = self._linked(source, (self.root / source).read_text(encoding="utf-8"))
            yield place, text + (self._contents(notebooks) if place == FRONT else "")
        yield from self._stubs()

    def _contents(self, notebooks: dict[str, NotebookNode]) -> str:
        groups = {
            "Notebooks": ["notebooks/README", *(f"notebooks/{Path(name).stem}" for name in notebooks)],
            "Use the methods": ["course_lib/README", f"{LIBRARY}/course_lib", "data/results/README"],
            "Teach and contribute": [
                *("notebooks/INSTRUCTORS", "notebooks/SAMPLE_CLASS", "data/challenge/README", "CONTRIBUTING", "data/README")
            ],
        }
        return "".join(CONTENTS.format(caption=caption, pages="\n".join(pages)) for caption, pages in groups.items())

    def _page(self, source: str, notebook: NotebookNode, cells: dict[int, Played], data: dict[Played, str]) -> NotebookNode:
        """A notebook as the site shows it: what is folded away there is folded here, and panels move without a kernel."""
        for place, cell in enumerate(notebook.cells):
            folded = cell.metadata.get("jupyter", {}).get("source_hidden") or _is_answer(cell)
            if cell.cell_type == "markdown":
                cell.source = self._linked(source, cell.source)
                if folded and not cell.source.lstrip().startswith("<details"):
                    cell.source = f"<details><summary>A model answer</summary>\n\n{cell.source}\n\n</details>"
            elif folded:
                cell.metadata.setdefault("tags", []).append("hide-input")
            for output in cell.get("outputs", []):
                if "text/html" in output.get("data", {}):
                    output.data.pop("image/png", None)  # for viewers that show no HTML
            if place in cells:
                cell.outputs = [_live(f"panel-{place}", cell, data[cells[place]])]
        return notebook

    def _linked(self, source: str, text: str) -> str:
        """A text whose links lead to pages of the site, or to files that are copied; where there is neither, the words stay."""

        def replaced(link: re.Match) -> str:
            address, _, fragment = link[3].partition("#")
            target = PurePosixPath(os.path.normpath(PurePosixPath(source).parent / address))
            if (self.root / target / "README.md").is_file():
                target /= "README.md"
            if not (self.root / target).is_file():
                self.left_out.append(f"{source}: {link[3]}")
            elsewhere = target.suffix == ".ipynb" and target.parent.name != "notebooks"  # to run, not to read
            if not (self.root / target).is_file() or elsewhere or target.suffix == ".json":  # rows are no part of the site
                return link[2]
            if target.suffix == ".py":
                place = f"{LIBRARY}/{'.'.join(target.with_suffix('').parts).removesuffix('.__init__')}.rst"
            elif not (place := TEXTS.get(str(target))):
                place = str(target)
                if target.suffix != ".ipynb":
                    self._copy(place)
            relative = os.path.relpath(place, PurePosixPath(TEXTS.get(source, source)).parent)
            return f"{link[1]}[{link[2]}]({relative}{'#' * bool(fragment)}{fragment})"

        return LINK.sub(replaced, text)

    def _stubs(self) -> Iterator[tuple[str, str]]:
        """A page for each module, and below that of a package the pages of its modules."""
        paths = [path for path in sorted((self.root / "course_lib").rglob("*.py")) if path.stem not in SCRIPTS]
        names = [".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__") for path in paths]
        for name, path in zip(names, paths, strict=True):
            below = [other for other in names if other.rpartition(".")[0] == name]
            title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or name).partition("\n")[0]
            lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:", ""]
            if below:
                lines += [".. toctree::", "   :maxdepth: 1", "", *(f"   {other}" for other in below), ""]
            yield f"{LIBRARY}/{name}.rst", "\n".join([f".. meta::\n   :description: {title}\n", *lines])

    def _copy(self, place: str) -> None:
        (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.root / place, self.folder / place)

    def _write(self, place: str, text: str) -> Path:
        """Writes a source unless it is there: what has not changed is not read again."""
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        return path


def _is_answer(cell: NotebookNode) -> bool:
    """Whether a cell holds a model answer or tests that students do not see."""
    return cell.metadata.get("nbgrader", {}).get("solution", False) or "### BEGIN HIDDEN TESTS" in cell.source


def _live(name: str, cell: NotebookNode, data: str) -> NotebookNode:
    """The output of a panel or film: the saved picture, which a script replaces, and the data for that."""
    saved = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    still = saved or "<p>What is shown here needs JavaScript.</p>"
    place = f'<div class="course-panel" id="{html.escape(name)}">{still}</div>'
    script = f'<script type="application/json" class="course-data">{data}</script>'
    return new_output("display_data", {"text/html": place + script})
