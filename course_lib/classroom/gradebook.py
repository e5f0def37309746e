"""nbgrader's folders and gradebook, as this course uses them.

Below one folder: `source` (with solutions), `release` (for students), `autograded`, `feedback`, and `gradebook.db`. With the
`nbgrader_config.py` that is written there, nbgrader's own tools, the form grader for one, work on them.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI
from nbgrader.preprocessors import ClearHiddenTests, GetGrades, LimitOutput, NbGraderPreprocessor, OverwriteCells, SaveAutoGrades
from traitlets.config import Config

from course_lib.classroom import cells, pages
from course_lib.files import replacing

CONFIG = """\
# For nbgrader's own tools, started in this folder
c = get_config()  # noqa: F821
c.CourseDirectory.root = {root!r}
c.IncludeHeaderFooter.header = ""
"""
HIDDEN = "BEGIN HIDDEN TESTS"


class HideTests(NbGraderPreprocessor):
    """Takes hidden tests out of a graded notebook, and what their errors show of them."""

    def preprocess_cell(self, cell: NotebookNode, resources: dict, cell_index: int) -> tuple[NotebookNode, dict]:
        """Leaves of a cell with hidden tests its visible part, and whether it passed."""
        if cell.cell_type != "code" or HIDDEN not in cell.source:
            return cell, resources
        failed = [out.ename for out in cell.outputs if out.output_type == "error"]
        text = f"a hidden test failed: {failed[0]}" if failed else "the hidden tests ran through"
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        cell, resources = ClearHiddenTests().preprocess_cell(cell, resources, cell_index)
        cell.source = f"{cell.source}\n# hidden tests".strip()
        return cell, resources


@dataclass(frozen=True)
class Marks:
    """The points of a student in a notebook; `open` are those that a person still has to give."""

    score: float
    best: float
    open: float
    detail: str  # changes when any mark or comment does


class Course:
    """An nbgrader course in a folder, which is made where it is missing."""

    def __init__(self, root: Path):
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        with replacing(self.root / "nbgrader_config.py") as scratch:
            scratch.write_text(CONFIG.format(root=str(self.root)), encoding="utf-8")
        self.database = f"sqlite:///{self.root / 'gradebook.db'}"
        with _path():
            Gradebook(self.database).close()
        config = Config()
        config.CourseDirectory.root = str(self.root)
        config.CourseDirectory.db_url = self.database
        config.GenerateFeedback.preprocessors = [GetGrades, HideTests, "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor"]
        self.api = NbGraderAPI(config=config)
        self.api.log.setLevel(logging.ERROR)

    def assign(self, unit: str, master: NotebookNode) -> Path:
        """Puts the instructor's notebook into `source`, the students' copy into `release`, the tests into the gradebook.

        Raises:
            RuntimeError: nbgrader refuses the notebook; the message holds its log.
        """
        opened = nbformat.from_dict(json.loads(json.dumps(master)))
        for cell in opened.cells:
            cell.metadata.pop("jupyter", None)  # what is folded away in the reading copy
        source = self.root / "source" / unit / f"{unit}.ipynb"
        with replacing(source) as scratch:
            nbformat.write(opened, str(scratch))
        with _quiet():
            done = self.api.generate_assignment(unit, force=True, create=True)
        if not done["success"]:
            raise RuntimeError(f"nbgrader makes no release of {unit}:\n{done.get('log', '')}{done.get('error', '')}")
        return self.root / "release" / unit / f"{unit}.ipynb"

    def save(self, unit: str, student: str, notebook: NotebookNode, *, scored: bool) -> None:
        """Writes the marks of a run notebook into the gradebook, and the notebook, safe to look at, into `autograded`.

        The form grader and the feedback page show what is there. Where it is not `scored`, every mark waits for a person.
        """
        own = self._own(unit)
        for cell, made in zip(notebook.cells, pages.safe(notebook, own).cells, strict=True):
            if "outputs" in cell:
                cell.outputs = made.outputs  # in the form that nbgrader expects: a kernel can send any
        resources = dict(nbgrader=dict(notebook=unit, assignment=unit, student=student, db_url=self.database))
        with _quiet():
            self._submitted(unit, student)
        for step in (OverwriteCells(), LimitOutput(), *([SaveAutoGrades()] if scored else [])):
            step.log.setLevel(logging.ERROR)
            notebook, resources = step.preprocess(notebook, resources)
        if not scored:
            self._leave_to_a_person(unit, student)
        with replacing(self.root / "autograded" / student / unit / f"{unit}.ipynb") as scratch:
            nbformat.write(pages.safe(notebook, own), str(scratch))

    def _own(self, unit: str) -> frozenset[str]:
        """The sources of the instructor's cells."""
        source = self.root / "source" / unit / f"{unit}.ipynb"
        return frozenset(cell.source for cell in nbformat.read(source, as_version=4).cells)

    def _submitted(self, unit: str, student: str) -> None:
        with Gradebook(self.database) as book:
            book.update_or_create_student(student)
            book.update_or_create_submission(unit, student)

    def _leave_to_a_person(self, unit: str, student: str) -> None:
        with Gradebook(self.database) as book:
            for grade in book.find_submission_notebook(unit, unit, student).grades:
                grade.auto_score, grade.needs_manual_grade = 0, grade.manual_score is None
            book.db.commit()

    def feedback(self, unit: str, student: str) -> Path:
        """Writes the page for a student. Raises RuntimeError where nbgrader cannot."""
        with _quiet():
            done = self.api.generate_feedback(unit, student, force=True)
        page = self.root / "feedback" / student / unit / f"{unit}.html"
        if not done["success"] or not page.exists():
            raise RuntimeError(
                f"nbgrader makes no feedback on {unit} for {student}:\n{done.get('log', '')}{done.get('error', '')}"
            )
        text = page.read_text(encoding="utf-8")
        with replacing(page) as scratch:
            scratch.write_text(text.replace("<head>", f"<head>\n{pages.POLICY}", 1), encoding="utf-8")
        return page

    def marks(self, unit: str, student: str) -> Marks | None:
        """What the gradebook says, marks given by hand included; None where it knows of no submission."""
        with Gradebook(self.database) as book:
            try:
                found = book.find_submission_notebook(unit, unit, student)
            except MissingEntry:
                return None
            waiting = sum(grade.max_score for grade in found.grades if grade.needs_manual_grade)
            detail = [(g.name, g.auto_score, g.manual_score, g.extra_credit, g.needs_manual_grade) for g in found.grades]
            detail += [(comment.name, comment.comment) for comment in found.comments]
            return Marks(
                found.score, found.max_score, waiting, hashlib.sha256(repr(sorted(detail, key=str)).encode()).hexdigest()
            )


@contextlib.contextmanager
def _path():
    """With the programs of this environment on the PATH: nbgrader calls `alembic` when it makes a gradebook."""
    saved = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{saved}"
    try:
        yield
    finally:
        os.environ["PATH"] = saved


@contextlib.contextmanager
def _quiet():
    """Without the log that nbgrader and alembic write to stderr, nor the deprecations of what they call."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(None):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def load(notebooks: Path, only: str | None = None) -> dict[str, NotebookNode]:
    """The notebooks that have graded cells, by name.

    Raises:
        ValueError: there is none whose name begins with `only`.
    """
    found = {path.stem: nbformat.read(path, as_version=4) for path in sorted(notebooks.glob("*.ipynb")) if _chosen(path, only)}
    graded = {unit: notebook for unit, notebook in found.items() if any(map(utils.is_grade, notebook.cells))}
    if not graded:
        raise ValueError(f"no notebook in {notebooks} with exercises has a name that begins with {only or ''!r}")
    for unit, notebook in graded.items():
        ids = [cells.grade_id(cell) for cell in notebook.cells if cells.grade_id(cell)]
        if len(set(ids)) < len(ids):
            raise ValueError(f"notebook {unit} has two cells of one grade_id")
    return graded


def _chosen(path: Path, only: str | None) -> bool:
    return path.stem.startswith(only or "") and "+" not in path.stem
