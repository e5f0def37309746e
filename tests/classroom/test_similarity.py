"""Which submissions are alike: disguised copies are found; right answers of one's own, starter code and empty answers are not."""

import csv
import importlib
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from course_lib.__main__ import main
from course_lib.classroom import similarity
from course_lib.desk.handout import hand_out
from tests import exercises
from tests.answers import weight_pruning
from tests.classroom.mini import UNIT, by_id, mini, submission, write

PAPER = "02_weight_pruning"
RIGHT = dict(weight_pruning.RIGHT.values())
OTHER_NAMES = {
    "weight": "w",
    "mask": "kept",
    "order": "ranked",
    "start": "begin",
    "sizes": "table",
    "dense": "full",
    "row": "line",
}


def handed_in(answers: dict[str, str]) -> NotebookNode:
    """Notebook 02 as a release with answers in it; what is not answered is a stub."""
    notebook = nbformat.from_dict(exercises._notebook(PAPER))
    for name, cell in by_id(notebook).items():
        if name.startswith("answer-") and cell.cell_type == "code":
            cell.source = answers.get(name, exercises.released(PAPER, int(name.split("-")[1])))
        elif name.startswith("answer-"):
            cell.source = answers.get(name, "")
    return notebook


def disguised(source: str) -> str:
    for old, new in OTHER_NAMES.items():
        source = re.sub(rf"\b{old}\b", new, source)
    return "# all my own work\n" + source.replace("    ", "  ").replace("\n", "\n\n")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A class: right answers of one's own, a disguised copy of them, the model answers, nothing at all, twice, and a wreck."""
    folder = tmp_path_factory.mktemp("in")
    own = {f"answer-{number}": answer for number, answer in RIGHT.items()}
    essay = "Rows of CSR carry an index for every weight, and the bitmap pays one bit for each place, so few weights favour CSR. "
    model = {name: cell.source for name, cell in by_id(exercises._notebook(PAPER)).items() if name.startswith("answer-")}
    empty = hand_out(exercises._notebook(PAPER), PAPER, [PAPER], home=exercises.NOTEBOOKS, place=Path("elsewhere"))
    notebooks = {
        "ada": handed_in(own | {"answer-4": essay + "Pruning saves bytes first."}),
        "bob": handed_in({name: disguised(answer) for name, answer in own.items()} | {"answer-4": f"Well: {essay.upper()}"}),
        "cid": handed_in({name: model[name] for name in ("answer-1", "answer-2", "answer-3")}),
        "dan": handed_in({}),
        "eve": handed_in({}),
        "fay": empty,
        "gus": nbformat.from_dict(empty),
    }
    for student, notebook in notebooks.items():
        write(notebook, folder / f"{student}.ipynb")
    (folder / "hal.ipynb").write_text("no notebook")
    found, skipped = similarity.compare(folder, only="02", progress=False)
    return {(row.part, row.student, row.other): row.share for row in found.itertuples()}, skipped


def test_a_copy_in_disguise_and_a_copy_of_the_model_are_found_and_nothing_else(table):
    found, skipped = table
    assert set(found) == {("code", "ada", "bob"), ("words", "ada", "bob"), ("code", "cid", similarity.MODEL)}
    assert min(found["code", "ada", "bob"], found["code", "cid", similarity.MODEL]) > 0.9
    assert len(skipped) == 1 and "hal: broken JSON" in skipped[0]


@pytest.mark.parametrize("notebook", [path.stem for path in sorted(exercises.NOTEBOOKS.glob("*.ipynb"))])
def test_right_answers_of_one_s_own_are_not_alike(notebook):
    """Those in tests/answers are written to be unusual; they share a small part of themselves with the model answers."""
    answers = importlib.import_module(f"tests.answers.{notebook.partition('_')[2]}")
    master = exercises._notebook(notebook)
    texts = dict(right="\n\n".join(answer for _, answer in answers.RIGHT.values()))
    texts["model"] = similarity._parts([cell for cell in by_id(master).values() if cell.metadata.nbgrader.solution])["code"]
    prints, _ = similarity._fingerprints(texts, similarity._starter(master)["code"], "code")
    _, shares, _ = similarity.compare_files(prints["right"], prints["model"])
    assert max(shares) <= 0.3 < similarity.THRESHOLD


STARTER = "def double(x):\n" + "".join(f"    step_{i} = {i} * x + (x if x > {i} else -x)\n" for i in range(9))


def long_starter() -> NotebookNode:
    notebook = mini()
    by_id(notebook)["answer-1"].source = f"{STARTER}    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
    return notebook


def alike(answers: dict[str, str], folder: Path, threshold: float = 0.5) -> set[tuple[str, str]]:
    """Pairs of students who gave these answers to exercise 1 of a notebook with much starter code."""
    write(long_starter(), folder / "notebooks" / f"{UNIT}.ipynb")
    for student, answer in answers.items():
        write(submission({"answer-1": answer}), folder / "in" / f"{student}.ipynb")
    how = dict(threshold=threshold, notebooks=folder / "notebooks", progress=False)
    return set(similarity.compare(folder / "in", **how)[0][["student", "other"]].itertuples(index=False, name=None))


def test_starter_code_does_not_count_and_what_is_beside_it_does(tmp_path):
    own = "    total = sum(step_0 for _ in range(2))\n    assert total != [x, {x: 3}], (total, 'odd')\n" * 2
    answers = {"ada": STARTER + "    return 2 * x", "bob": STARTER + "    return x + x"}
    assert alike(answers, tmp_path) == set()
    assert alike({"ada": STARTER + own, "bob": STARTER + own.replace("total", "both")}, tmp_path) == {("ada", "bob")}


def test_what_is_copied_into_a_cell_of_its_own_is_found(tmp_path):
    write(long_starter(), tmp_path / "notebooks" / f"{UNIT}.ipynb")
    extra = "def helper(values):\n" + "".join(
        f"    values[{i}] += {i} if values[{i}] % 7 > {i} else values[-1] ** 2\n" for i in range(4)
    )
    for student in ("ada", "bob"):
        write(submission(extra=extra), tmp_path / "in" / f"{student}.ipynb")
    found, _ = similarity.compare(tmp_path / "in", notebooks=tmp_path / "notebooks", progress=False)
    assert found.student.tolist() == ["ada"] and found.share.tolist() == [1.0]


def test_very_long_answers_are_told_and_not_compared(tmp_path):
    write(mini(), tmp_path / "notebooks" / f"{UNIT}.ipynb")
    for student in ("ada", "bob"):
        write(submission({"answer-1": "x = 1\n" * 9_000}), tmp_path / "in" / f"{student}.ipynb")
    found, skipped = similarity.compare(tmp_path / "in", notebooks=tmp_path / "notebooks", progress=False)
    assert len(found) == 0 and skipped == [f"{UNIT} {student}: more than 50,000 characters" for student in ("ada", "bob")]


def test_the_command_writes_a_table_and_tells_mistakes(tmp_path, capsys):
    for student in ("ada", "=bob"):
        write(handed_in({f"answer-{number}": answer for number, answer in RIGHT.items()}), tmp_path / "in" / f"{student}.ipynb")
    arguments = ["similar", "--submissions", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--only", "2"]
    assert main(arguments) == 0
    with (tmp_path / "out" / "similarity.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["notebook"], row["part"], row["share"]) == (PAPER, "code", "1.0") and not row["student"].startswith("=")
    assert "similarity.csv" in capsys.readouterr().out
    assert main([*arguments, "--threshold", "0"]) == 2
    assert "threshold is 0.0; it must be above 0" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["similar", "--submissions", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2


def test_where_copydetect_is_missing_the_command_that_installs_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "course_lib.classroom.similarity")
    monkeypatch.setitem(sys.modules, "copydetect", None)
    assert main(["similar", "--submissions", str(tmp_path), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "copydetect" in said and "`make lab`, or `pip install -e .[test]`, installs" in said
