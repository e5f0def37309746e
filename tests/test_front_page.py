"""README says what the recorded rows and the executed notebooks say."""

import json

import pandas as pd
from PIL import Image

from course_lib import front_page
from course_lib.experiments import runner


def test_readme_and_its_pictures_are_in_step():
    for path, content in front_page.wanted().items():
        assert path.is_file() and path.read_bytes() == content, f"{path.name} is out of step: run `make results`"


def test_a_block_is_filled_and_the_rest_left(monkeypatch, tmp_path):
    rows = pd.DataFrame([dict(scale="lesson", error=1.5), dict(scale="smoke", error=9.0)])
    monkeypatch.setattr(runner, "recorded", lambda paper: rows)
    monkeypatch.setattr("course_lib.experiments.weight_pruning.paper_table", lambda rows: rows[["error"]])
    text = "before\n<!-- results: weight-pruning -->\nold\n<!-- /results -->\nafter\n"
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "notebooks").mkdir()
    assert front_page.command(tmp_path) == 0
    expected = "before\n<!-- results: weight-pruning -->\n| error |\n| --- |\n| 1.5 |\n<!-- /results -->\nafter\n"
    assert (tmp_path / "README.md").read_text() == expected


def test_the_picture_of_all_papers_is_drawn_anew_when_a_row_changes(monkeypatch, tmp_path):
    table = runner.overview()
    path = tmp_path / "overview.png"
    path.write_bytes(front_page._overview(path))
    with Image.open(path) as picture:
        assert json.loads(picture.info["Description"])[0]["paper"] == "Gong 2014, vector quantization"
        picture.save(path, pnginfo=None)  # other pixels would do; here the description goes
    assert front_page._overview(path) != path.read_bytes()
    path.write_bytes(first := front_page._overview(path))
    monkeypatch.setattr(front_page.plots, "overview", None)
    assert front_page._overview(path) == first  # the same rows: not drawn
    monkeypatch.undo()
    monkeypatch.setattr(front_page.runner, "overview", lambda: table.assign(lost=table.lost + 1))
    assert front_page._overview(path) != first
