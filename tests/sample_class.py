"""A class to try grading with: `python -m tests.sample_class FOLDER [--only 02]`, after `make release`.

Six students hand in a release copy, under the names that Canvas gives downloaded files: the model answers, right answers of one's
own, a disguised copy of these, wrong answers, nothing, and a damaged file. Beside them lies the gradebook that Canvas would
export.
"""

import argparse
import ast
import csv
import importlib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.classroom import cells
from course_lib.classroom.release import BUILD
from course_lib.classroom.sandbox import NOTEBOOKS
from course_lib.commands.grammar import beginning

STUDENTS = {"Ada Lovelace": 101, "Ben Adler": 102, "Cleo Park": 103, "Dan Osei": 104, "Eve Rossi": 105, "Fay Lind": 106}
OWN_WORDS = (
    "It depends on what is counted. Bytes in the file go down with every weight that is removed, while milliseconds go down only "
    "where the hardware can leave the zeros out, so I would measure both on the device before I choose."
)


class _Disguise(ast.NodeTransformer):
    """Gives the local variables of functions other names."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        inside = list(ast.walk(node))
        local = {name.id for name in inside if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
        for name in inside:
            if isinstance(name, ast.Name) and name.id in local:
                name.id = f"{name.id}_2"
        return node


def disguised(source: str) -> str:
    """The same program without comments, with other names and in other lines."""
    return ast.unparse(_Disguise().visit(ast.parse(source)))


def answers(unit: str) -> dict[str, dict[str, str]]:
    """Student -> grade_id -> what this student writes there; who is not named hands in the copy as it was released."""
    master = nbformat.read(NOTEBOOKS / f"{unit}.ipynb", as_version=4)
    model = {cells.grade_id(cell): cell for cell in master.cells if cells.is_answer(cell)}
    words = next(name for name, cell in model.items() if cell.cell_type == "markdown")
    known = importlib.import_module(f"tests.answers.{unit.partition('_')[2]}")
    own = {f"answer-{number}": answer.strip() for number, answer in known.RIGHT.values()}
    wrong = {f"answer-{number}": answer.strip() for number, answer in reversed(known.WRONG.values())}
    return {
        "Ada Lovelace": {name: cell.source for name, cell in model.items()},
        "Ben Adler": own | {words: OWN_WORDS},
        "Cleo Park": {name: disguised(answer) for name, answer in own.items()}
        | {words: OWN_WORDS.replace("I would", "one should")},
        "Dan Osei": wrong | {words: "Smaller is always faster."},
    }


def filled(copy: NotebookNode, written: dict[str, str]) -> NotebookNode:
    """A release copy with these answers in it."""
    copy = nbformat.from_dict(copy)
    for cell in copy.cells:
        if cells.is_answer(cell):
            cell.source = written.get(cells.grade_id(cell), cell.source)
    return copy


def command(out: Path, only: str, released: Path = BUILD / "release") -> None:
    """Writes `out`/submissions and `out`/gradebook.csv.

    Raises:
        FileNotFoundError: no such notebook has been released.
    """
    copies = sorted(released.glob(f"{only}*/*.ipynb"))
    if not copies:
        raise FileNotFoundError(f"no copy of {only} is in {released}; make release N={only} makes it")
    unit = copies[0].stem
    copy, written = nbformat.read(copies[0], as_version=4), answers(unit)
    (out / "submissions").mkdir(parents=True, exist_ok=True)
    for student, number in STUDENTS.items():
        path = out / "submissions" / f"{student.lower().replace(' ', '')}_{number}_{9_000 + number}_{unit}.ipynb"
        nbformat.write(filled(copy, written.get(student, {})), path)
        if student == "Fay Lind":
            path.write_bytes(path.read_bytes()[:20_000])
    roster(out / "gradebook.csv", unit)
    print(f"{len(STUDENTS)} submissions of {unit}: {out / 'submissions'}; the class: {out / 'gradebook.csv'}")


def roster(path: Path, unit: str) -> None:
    """Writes the class as Canvas exports its gradebook."""
    table = [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", f"{unit} (501)"],
        ["    Points Possible", *[""] * 4, "20.00"],
    ]
    for student, number in STUDENTS.items():
        first, last = student.split()
        table.append([f"{last}, {first}", number, f"s{number}", f"{first.lower()}@example.org", "Group A", ""])
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.sample_class", description="Makes a class to try grading with.")
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--only", type=beginning, default="02", metavar="02", help="the notebook; default: %(default)s")
    arguments = parser.parse_args()
    try:
        command(arguments.out, arguments.only)
    except FileNotFoundError as mistake:
        parser.error(str(mistake))
