"""An update never loses what a reader wrote: the merge against random edits of both sides, and each kind of edit by hand."""

import copy

import hypothesis.strategies as st
import nbformat
import pytest
from hypothesis import given
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.desk.merging import merge


def notebook(*sources: str, prefix: str = "c"):
    """A notebook with a code cell for each source, and ids of their own."""
    return new_notebook(cells=[new_code_cell(source, id=f"{prefix}-{i}") for i, source in enumerate(sources)])


def sources(made) -> list[str]:
    return [cell.source for cell in made.cells]


@st.composite
def three(draw):
    """A base, and an edited notebook of each side; the text of a cell tells who wrote it."""
    base = notebook(*(f"base {i}" for i in range(draw(st.integers(1, 6)))))
    sides = []
    for who in ("course", "reader"):
        made = copy.deepcopy(base)
        for step in range(draw(st.integers(0, 6))):
            kind = draw(st.sampled_from(["edit", "delete", "add", "move", "output", "rename"]))
            cell = made.cells[draw(st.integers(0, len(made.cells) - 1))] if made.cells else None
            if kind == "add":
                made.cells.insert(draw(st.integers(0, len(made.cells))), new_markdown_cell(f"{who} {step}"))
            elif cell is None:
                continue
            elif kind == "edit":
                cell.source = f"{who} {step}"
            elif kind == "delete":
                made.cells.remove(cell)
            elif kind == "move":
                made.cells.remove(cell)
                made.cells.insert(draw(st.integers(0, len(made.cells))), cell)
            elif kind == "output" and cell.cell_type == "code":
                cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text=f"{who} {step}")], step + 1
            elif kind == "rename" and who == "reader":
                cell.id = f"renamed-{step}"
        sides.append(made)
    return base, *sides


@given(three())
def test_nothing_that_the_reader_wrote_is_lost(notebooks):
    base, theirs, mine = notebooks
    before = copy.deepcopy(notebooks)
    merged = merge(base, theirs, mine).notebook
    written = [text for text in sources(mine) if text not in sources(base)]
    assert sorted(text for text in sources(merged) if text.startswith("reader")) == sorted(written)
    nbformat.validate(merged)
    assert len({cell.id for cell in merged.cells}) == len(merged.cells)
    assert notebooks == before


@given(three())
def test_what_only_the_course_changed_arrives(notebooks):
    base, theirs, mine = notebooks
    merged = sources(merge(base, theirs, mine).notebook)
    assert not {text for text in merged if text.startswith("base")} - {*sources(theirs), *sources(mine)}
    alone = {cell.id: cell.source for cell in mine.cells}
    for cell in theirs.cells:
        old = next((other.source for other in base.cells if other.id == cell.id), None)
        if old is None or alone.get(cell.id) == old:  # added, or left alone by the reader
            assert cell.source in merged


@given(three())
def test_one_side_alone_is_followed_exactly(notebooks):
    base, theirs, mine = notebooks
    assert sources(merge(base, theirs, base).notebook) == sources(theirs)
    assert sources(merge(base, base, mine).notebook) == sources(mine)
    kept = merge(base, base, mine).notebook.cells
    assert [cell.get("outputs") for cell in kept] == [cell.get("outputs") for cell in mine.cells]


@given(three())
def test_an_update_that_was_interrupted_is_found_to_be_done(notebooks):
    """The merged copy was written, and the program ended before it noted that."""
    base, theirs, mine = notebooks
    once = merge(base, theirs, mine).notebook
    assert sources(merge(base, theirs, once).notebook) == sources(once)
    assert sources(merge(theirs, theirs, once).notebook) == sources(once)


def test_each_kind_of_edit():
    base = notebook("a", "b", "c", "d", "e", "f")
    theirs = notebook("a2", "b2", "c", "d2", "e")  # f is gone, of the rest three are changed
    theirs.cells.insert(1, new_markdown_cell("new", id="new"))
    mine = notebook("a", "b of mine", "c of mine", "d", "e", "f of mine")
    del mine.cells[3]
    mine.cells.insert(0, new_code_cell("first of mine"))
    merged = merge(base, theirs, mine)
    assert sources(merged.notebook) == ["first of mine", "a2", "new", "b of mine", "c of mine", "e", "f of mine"]
    assert (merged.updated, merged.added, merged.removed) == (["a"], ["new"], [])
    assert sorted(merged.conflicts) == ["b of mine", "d2"] and merged.given_up == ["f of mine"]


def test_outputs_of_code_that_the_course_changed_go_and_others_stay():
    base, theirs, mine = notebook("a", "b"), notebook("a2", "b"), notebook("a", "b")
    for cell in mine.cells:
        cell.outputs = [nbformat.v4.new_output("stream", text="seen")]
    assert [len(cell.outputs) for cell in merge(base, theirs, mine).notebook.cells] == [0, 1]


def test_a_program_that_gives_all_cells_new_ids_changes_nothing():
    base, theirs = notebook("a", "b", "c"), notebook("a", "b2", "c")
    mine = notebook("a", "b", "mine", "c", prefix="other")
    merged = merge(base, theirs, mine).notebook
    assert sources(merged) == ["a", "b2", "mine", "c"]
    assert [cell.id for cell in merged.cells if cell.source != "mine"] == ["c-0", "c-1", "c-2"]  # the next update knows them


def test_a_graded_cell_is_known_by_its_name():
    base, theirs, mine = notebook("answer", "test"), notebook("answer 2", "test 2"), notebook("mine", "test", prefix="other")
    for made in (base, theirs, mine):
        for cell, name in zip(made.cells, ("answer-1", "test-1"), strict=True):
            cell.metadata.nbgrader = dict(grade_id=name, solution=name == "answer-1")
    theirs.cells[0].metadata.nbgrader["points"] = 9
    merged = merge(base, theirs, mine)
    assert sources(merged.notebook) == ["mine", "test 2"] and merged.conflicts == ["answer-1"]
    assert merged.notebook.cells[0].metadata.nbgrader["points"] == 9


def test_a_cell_that_was_duplicated_stays_twice():
    base, theirs, mine = notebook("a"), notebook("a2"), notebook("a")
    mine.cells.append(new_code_cell("a", id="c-0"))
    merged = merge(base, theirs, mine).notebook
    assert sources(merged) == ["a2", "a"] and len({cell.id for cell in merged.cells}) == 2


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 2, 0]])
def test_the_reader_s_order_wins_over_the_course_s(order):
    base, theirs = notebook("a", "b", "c"), notebook("a", "b", "c", "d")
    mine = notebook("a", "b", "c")
    mine.cells = [mine.cells[i] for i in order]
    merged = sources(merge(base, theirs, mine).notebook)
    assert [text for text in merged if text != "d"] == sources(mine) and merged[merged.index("c") + 1] == "d"
