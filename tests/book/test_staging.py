"""Sources of the site: where links lead, what is folded, which panels there are."""

from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.book import playing, staging
from course_lib.book.staging import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    root = tmp_path / "course"
    for name in ("README.md", "LICENSE", "notebooks/00_a.ipynb", "notebooks/README.md", "data/README.md", "course_lib/cost.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Stage(tmp_path / "source", root)


@pytest.mark.parametrize(
    ("source", "link", "wanted"),
    [
        ("README.md", "[a](notebooks/00_a.ipynb)", "[a](notebooks/00_a.ipynb)"),
        ("README.md", "[data](data)", "[data](data/README.md)"),
        ("README.md", "[cost](course_lib/cost.py)", "[cost](library/course_lib.cost.rst)"),
        ("notebooks/README.md", "[front](../README.md#what-it-shows)", "[front](../index.md#what-it-shows)"),
        ("notebooks/README.md", "[far](https://arxiv.org/abs/1506.02626)", "[far](https://arxiv.org/abs/1506.02626)"),
        ("notebooks/00_a.ipynb", "[here](#exercises)", "[here](#exercises)"),
        ("README.md", "![a picture](gone.png)", "a picture"),
    ],
)
def test_links_lead_to_pages_of_the_site(stage, source, link, wanted):
    assert stage._linked(source, f"See {link}.") == f"See {wanted}."
    assert stage.left_out == (["README.md: gone.png"] if "gone" in link else [])


def test_what_no_page_holds_is_copied(stage):
    assert stage._linked("data/README.md", "[licence](../LICENSE)") == "[licence](../LICENSE)"
    assert (stage.folder / "LICENSE").is_file()


def notebook():
    return new_notebook(
        cells=[
            new_code_cell("import math", metadata={"jupyter": {"source_hidden": True}}),
            new_code_cell("limits", outputs=[new_output("stream", text="threads: 1 | 88 G MACs/s, 3.9 GB/s, ridge at 22")]),
            new_code_cell("play.panel(roof)", metadata={"tags": ["panel"]}),
            new_code_cell("from course_lib.drawings.films import Film\n\nFilm(frames, 1.0, 'Two frames.')"),
            new_code_cell("### BEGIN HIDDEN TESTS\nassert True\n### END HIDDEN TESTS"),
            new_markdown_cell("Because.", metadata={"nbgrader": {"solution": True}}),
        ]
    )


def test_panels_and_films_are_found_with_what_stands_above():
    panel, film = playing.find("00_a", notebook()).values()
    assert (panel.kind, panel.above, panel.limits) == ("panel", ("import math", "limits"), (88e9, 3.9e9))
    assert film.kind == "film" and film.source.endswith("'Two frames.')")


def test_a_page_folds_answers_and_plumbing_and_its_panels_have_data(stage):
    cells = playing.find("00_a", notebook())
    page = stage._page("notebooks/00_a.ipynb", notebook(), cells, dict.fromkeys(cells.values(), '{"goal":"be small"}'))
    assert ["hide-input" in cell.metadata.get("tags", []) for cell in page.cells[:5]] == [True, False, False, False, True]
    assert page.cells[5].source.startswith("<details><summary>A model answer</summary>\n\nBecause.")
    shown = page.cells[2].outputs[0].data["text/html"]
    assert 'class="course-panel" id="panel-2"' in shown and shown.endswith('{"goal":"be small"}</script>')


def test_each_module_has_a_stub_and_packages_list_theirs(stage):
    (stage.root / "course_lib/__init__.py").write_text('"""The course."""')
    (stage.root / "course_lib/__main__.py").touch()
    stubs = dict(stage._stubs())
    assert list(stubs) == ["library/course_lib.rst", "library/course_lib.cost.rst"]
    assert ".. automodule:: course_lib.cost" in stubs["library/course_lib.cost.rst"]
    assert (
        stubs["library/course_lib.rst"].endswith("   course_lib.cost\n")
        and ":description: The course." in stubs["library/course_lib.rst"]
    )


def test_a_panel_that_cannot_be_computed_is_named():
    cell = playing.Played("04_b", ("model = 1 / 0",), "play.panel(model)", None, playing.PANEL)
    with pytest.raises(RuntimeError, match="the panel of 04_b cannot be computed for the site: ZeroDivisionError"):
        playing.compute(cell)


def test_texts_of_the_site_are_in_the_repository():
    assert all((staging.ROOT / name).is_file() for name in staging.TEXTS)
