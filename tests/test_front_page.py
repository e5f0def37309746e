"""README says what the recorded rows and the executed notebooks say."""

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.commands import front_page
from course_lib.experiments import runner


def test_readme_results_and_pictures_are_in_step():
    for path, content in front_page.wanted().items():
        assert path.is_file() and path.read_bytes() == content, f"{path.name} is out of step: run `make results`"


def test_a_block_is_filled_and_the_rest_left(monkeypatch, tmp_path):
    rows = pd.DataFrame([dict(error=1.5)])
    monkeypatch.setattr(runner, "recorded", lambda paper, scale: rows)
    monkeypatch.setattr("course_lib.experiments.weight_pruning.paper_table", lambda rows: rows[["error"]])
    text = "before\n<!-- results: weight-pruning -->\nold\n<!-- /results -->\nafter\n"
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "notebooks").mkdir()
    assert front_page.command(tmp_path) == 0
    expected = "before\n<!-- results: weight-pruning -->\n| error |\n| --- |\n| 1.5 |\n<!-- /results -->\nafter\n"
    assert (tmp_path / "README.md").read_text() == expected


def test_a_block_may_name_another_scale(monkeypatch):
    monkeypatch.setattr(runner, "paper_table", lambda paper, scale: pd.DataFrame([dict(of=f"{paper}, {scale}")]))
    block = front_page.BLOCK.fullmatch("<!-- results: thinet at paper scale -->\nold\n<!-- /results -->")
    assert front_page._filled(block).splitlines()[3:-1] == ["| thinet, paper |"]


def test_the_overview_has_a_line_a_paper_at_paper_scale_where_something_is_published(monkeypatch):
    lines = dict(
        lesson=[("Li 2017, filter pruning", "1x", "2x"), ("All papers, comparison", "none", "3x")],
        paper=[("All papers, comparison", "none; here", "4x"), ("Gong 2014, vector quantization", "1x", "5x"),
               ("Li 2017, filter pruning", "1x", "6x"), ("Li 2017, filter pruning", "1x", "7x")],
    )  # fmt: skip
    columns = ["paper", "published", "rate"]
    monkeypatch.setattr(runner, "overview_table", lambda scale: pd.DataFrame(lines[scale], columns=columns))
    block = front_page.BLOCK.fullmatch("<!-- results: overview -->\nold\n<!-- /results -->")
    shown = [line.split(" | ")[-1] for line in front_page._filled(block).splitlines()[3:-1]]
    assert shown == ["5x |", "6x |", "3x |"], "in the order of the course"


def test_the_picture_of_a_tagged_cell_is_taken(tmp_path):
    data = {"text/html": '<img alt="a" src="data:image/svg+xml;base64,Kg==">', "image/png": "Lw=="}
    (tmp_path / "notebooks").mkdir()
    cell = new_code_cell("1", outputs=[new_output("stream", text="x"), new_output("display_data", data=data)])
    cell.metadata.tags = [front_page.PICTURE]
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "notebooks" / "01_codes.ipynb")
    assert front_page.wanted(tmp_path)[tmp_path / front_page.IMAGES / "01_codes.svg"] == b"*"


def notebook(folder, name, *lines):
    nbformat.write(new_notebook(cells=[new_markdown_cell("\n\n".join(lines))]), folder / name)


CARD = ["# 01 · Codes", "**Paper.** Gong: *Codes*, 2014", "**You will** code.", "| Time | about 3 minutes at lesson scale |"]


def test_the_contents_are_those_of_the_notebooks_in_order(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "README.md").write_text("")
    (folder / "README.md").write_text("before\n<!-- contents -->\nold\n<!-- /contents -->\nafter\n")
    notebook(folder, "02_later.ipynb", "# 02 · Later", *CARD[1:])
    notebook(folder, "01_codes.ipynb", *CARD)
    front_page.command(tmp_path)
    assert (folder / "README.md").read_text().splitlines() == [
        "before",
        "<!-- contents -->",
        "| notebook | paper | you will | time |",
        "| --- | --- | --- | --- |",
        "| [01 · Codes](01_codes.ipynb) | Gong: *Codes*, 2014 | code. | 3 minutes at lesson scale |",
        "| [02 · Later](02_later.ipynb) | Gong: *Codes*, 2014 | code. | 3 minutes at lesson scale |",
        "<!-- /contents -->",
        "after",
    ]


@pytest.mark.parametrize("missing", range(4))
def test_a_card_that_lacks_something_is_named(missing, tmp_path):
    notebook(tmp_path, "01_codes.ipynb", *CARD[:missing], *CARD[missing + 1 :])
    with pytest.raises(ValueError, match="01_codes.ipynb does not tell '(notebook|paper|you will|time)'"):
        front_page._card(tmp_path / "01_codes.ipynb")


def test_the_committed_contents_link_every_notebook_once():
    text = (front_page.ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    for path in (front_page.ROOT / "notebooks").glob("*.ipynb"):
        assert text.count(f"]({path.name})") == 1


def test_the_page_of_results_has_a_table_for_each_paper_that_has_rows():
    text = (front_page.ROOT / front_page.RESULTS).read_text(encoding="utf-8")
    papers = {block["paper"] for block in front_page.BLOCK.finditer(text)}
    assert papers == {path.stem.replace("_", "-") for path in runner.RESULTS.glob("*.json")}
