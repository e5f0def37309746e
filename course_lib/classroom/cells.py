"""Which cells of a submission count, and which are run.

What a student hands in is laid into the instructor's notebook: of the cells that nbgrader knows, only answers are the
student's; tests, points and questions are the instructor's again, whatever was done to them.

nbgrader's own helpers are not imported: every submission's process would spend two seconds on that, half of what it costs.
"""

import ast
import copy
import re
import symtable
from collections.abc import Iterator

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

LINES = 10_000  # of code in a submission; ten times as many as the longest notebook of the course has
HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS.*?END HIDDEN TESTS[^\n]*\n?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[a-z]+-(\d+)(?:-.*)?")
RUN = 'from course_lib.notebook import check\n\ncheck("exercise-{number}")\n'
MAGIC = re.compile(r"\s*[%!?,;/]|.*(=\s*[%!]|\?\s*$)")  # a line that may be IPython's own
MAGICS = 100_000  # at most, lines of magics times lines of their cell: IPython reads the cell anew for each of them


class TooMuch(ValueError):
    """A submission that would take too long to look through."""


def is_test(cell: NotebookNode) -> bool:
    """Whether a cell is graded by running it."""
    return cell.cell_type == "code" and _says(cell, "grade") and not is_answer(cell)


def is_answer(cell: NotebookNode) -> bool:
    """Whether a cell is for the student to fill in, code or words."""
    return _says(cell, "solution")


def _says(cell: NotebookNode, what: str) -> bool:
    known = cell.metadata.get("nbgrader")
    return isinstance(known, dict) and bool(known.get(what))


def is_setup(cell: NotebookNode) -> bool:
    """Whether a cell makes what exercises may rely on."""
    return cell.cell_type == "code" and "setup" in cell.metadata.get("tags", [])


def grade_id(cell: NotebookNode) -> str | None:
    """The name by which nbgrader knows a cell; None for any other cell."""
    known = cell.metadata.get("nbgrader")
    found = known.get("grade_id") if isinstance(known, dict) else None
    return found if isinstance(found, str) else None


def released(cell: NotebookNode) -> str:
    """The source of a test or question as students get it, without its hidden tests."""
    return HIDDEN.sub("", cell.source)


def exercise(cell: NotebookNode) -> int | None:
    """The number of the exercise that a question, answer or test belongs to, as its grade_id tells; None for any other cell."""
    found = NUMBER.fullmatch(grade_id(cell) or "")
    return int(found[1]) if found else None


def sealed(master: NotebookNode) -> dict[str, str]:
    """By grade_id, what stands for each test with a hidden part in a copy that checks itself: a line that says what it decides.

    The last of an exercise runs them all. A test without any text is hidden too: it is kept elsewhere.
    """
    tests = [cell for cell in master.cells if is_test(cell)]
    hidden = [cell for cell in tests if HIDDEN.search(cell.source) or not cell.source.strip()]
    last = {exercise(cell): cell for cell in hidden}
    found = {}
    for cell in hidden:
        number = exercise(cell)
        points = sum(other.metadata.nbgrader.points for other in tests if exercise(other) == number)
        label = f"# A hidden test decides {cell.metadata.nbgrader.points:g} of the {points:g} points of exercise {number}"
        runs = f"{label}; this runs it, and the other tests\n{RUN.format(number=number)}"
        text = runs if cell is last[number] else f"{label}; `check` runs it below\n"
        found[grade_id(cell)] = (HIDDEN.sub(lambda _, text=text: text, cell.source) if cell.source.strip() else text).rstrip("\n")
    return found


def likeness(master: NotebookNode, submission: NotebookNode) -> float:
    """The share of the master's questions and tests that stand in a submission as they were released, in [0, 1]."""
    fixed = [cell for cell in master.cells if grade_id(cell) and not is_answer(cell) and released(cell).strip()]
    sources, seals = {cell.source.strip() for cell in submission.cells}, sealed(master)
    found = sum(not sources.isdisjoint(_as_handed_out(cell, seals)) for cell in fixed)
    return found / max(1, len(fixed))


def _as_handed_out(original: NotebookNode, seals: dict[str, str]) -> set[str]:
    """The sources with which a test or question may come back unchanged."""
    sources = {original.source, released(original), seals.get(grade_id(original), original.source)}
    return {source.strip() for source in sources}


def merge(master: NotebookNode, submission: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The master's tests with the submission's answers, and what had been done to the tests.

    The submission's own cells stay where they are. What is missing of the master is put behind what preceded it there.

    Returns:
        The notebook, without outputs, and a sentence for each changed, missing or doubled test or question.

    Raises:
        TooMuch: the submission has more lines of code than `LINES`, or a cell more magics than `MAGICS` allows.
    """
    _check_size(submission)
    known = {grade_id(cell): cell for cell in master.cells if grade_id(cell)}
    merged, changes, seen, seals = [], [], set(), sealed(master)
    for cell in submission.cells:
        name = grade_id(cell)
        cell = _bare(cell)
        if name in seen:
            changes.append(f"{name} is there twice; the first counts")
        elif name in known:
            seen.add(name)
            cell, change = _restored(known[name], cell, seals)
            changes += [f"{name} was changed"] if change else []
        merged.append(cell)
    for before, name in zip([None, *known], known, strict=False):
        if name not in seen:
            changes.append(f"{name} was missing")
            place = next((i + 1 for i, cell in enumerate(merged) if grade_id(cell) == before), len(merged) if before else 0)
            merged.insert(place, _bare(known[name], keep=True))
    notebook = nbformat.v4.new_notebook(cells=merged, metadata=copy.deepcopy(master.metadata))
    _make_ids_unique(notebook)
    return notebook, changes


def _check_size(submission: NotebookNode) -> None:
    code = [cell.source.splitlines() for cell in submission.cells if cell.cell_type == "code"]
    if (count := sum(map(len, code))) > LINES:
        raise TooMuch(f"it has {count:,} lines of code; allowed are {LINES:,}")
    for lines in code:
        magics = sum(MAGIC.match(line) is not None for line in lines)
        if magics * len(lines) > MAGICS:
            raise TooMuch(f"a cell has {magics:,} magics in {len(lines):,} lines; allowed are {MAGICS // len(lines):,}")


def _bare(cell: NotebookNode, keep: bool = False) -> NotebookNode:
    """A copy of a cell with its source, tags, and with `keep` its nbgrader metadata; an answer keeps no source then."""
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}.get(
        cell.cell_type, nbformat.v4.new_raw_cell
    )
    tags = cell.metadata.get("tags", [])
    metadata = {"tags": [str(tag) for tag in tags]} if isinstance(tags, list) and tags else {}
    if keep:
        metadata["nbgrader"] = copy.deepcopy(cell.metadata.nbgrader)
    source = "" if keep and is_answer(cell) else cell.source
    return make(source, metadata=metadata)


def _restored(original: NotebookNode, cell: NotebookNode, seals: dict[str, str]) -> tuple[NotebookNode, bool]:
    """The cell that counts, and whether the submission's had been changed where it must not."""
    restored = _bare(original, keep=True)
    if is_answer(original):
        restored.source = cell.source
        return restored, False
    changed = cell.source.strip() not in _as_handed_out(original, seals)
    return restored, changed or cell.cell_type != original.cell_type


def _make_ids_unique(notebook: NotebookNode) -> None:
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"


def answer_names(master: NotebookNode) -> list[str]:
    """The names that the model answers define for the tests; those with a leading underscore are not meant for them."""
    sources = [cell.source for cell in master.cells if cell.cell_type == "code" and is_answer(cell)]
    return sorted({name for source in sources for name in names(source)[1] if not name.startswith("_")})


def wanted(master: NotebookNode, merged: NotebookNode, everything: bool = False) -> list[int]:
    """The places of the cells that the kernel of the answers runs, in order.

    These are set-up cells and answers, what the student wrote or changed, and the lesson's own cells as far as they define
    names, at any remove, that those need; with `everything` all of them.
    """
    code = {
        i: cell for i, cell in enumerate(merged.cells) if cell.cell_type == "code" and not is_test(cell) and cell.source.strip()
    }
    if everything:
        return list(code)
    lesson = {cell.source.strip() for cell in master.cells if not is_setup(cell) and not grade_id(cell)}
    spared = {i for i, cell in code.items() if cell.source.strip() in lesson and not is_answer(cell)}
    known = {i: names(cell.source) for i, cell in code.items()}
    given = {name for cell in master.cells if is_setup(cell) for name in names(cell.source)[1]}
    run = [i for i in code if i not in spared]
    for i in run:  # grows while it is gone through
        for j in sorted(spared):
            if j not in run and (known[i][0] - given) & known[j][1]:
                run.append(j)
    return sorted(run)


def names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell needs from elsewhere, and those that it defines or changes; none where it has no syntax."""
    needed: set[str] = set()
    defined: set[str] = set()
    try:
        statements = ast.parse(TransformerManager().transform_cell(source)).body
        for statement in statements:
            loaded, stored = _of_statement(statement)
            compound = not isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign)
            needed |= loaded - defined - (stored if compound else set())
            defined |= stored
    except (SyntaxError, ValueError, RecursionError, MemoryError, RuntimeError):  # the last of too many magics
        return set(), set()
    return needed, defined


def _of_statement(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Global names that a statement reads, and those that it binds or writes into."""
    table = symtable.symtable(ast.unparse(statement), "cell", "exec")
    stored = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    loaded = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    loaded |= {s.get_name() for inner in _inner(table) for s in inner.get_symbols() if s.is_global() and s.is_referenced()}
    runs_later = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
    for node in [] if runs_later else ast.walk(statement):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            loaded.add(node.target.id)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            while isinstance(node, ast.Attribute | ast.Subscript):
                node = node.value
            stored |= {node.id} if isinstance(node, ast.Name) else set()
    return loaded, stored


def _inner(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inner(child)
