"""README says what the recorded rows and the executed notebooks say."""

import pandas as pd

from course_lib import front_page


def test_readme_and_its_pictures_are_in_step():
    for path, content in front_page.wanted().items():
        assert path.is_file() and path.read_bytes() == content, f"{path.name} is out of step: run `make results`"


def test_a_block_is_filled_and_the_rest_left(monkeypatch, tmp_path):
    rows = pd.DataFrame([dict(scale="lesson", error=1.5), dict(scale="smoke", error=9.0)])
    monkeypatch.setattr(front_page.runner, "recorded", lambda paper: rows)
    monkeypatch.setattr("course_lib.experiments.weight_pruning.paper_table", lambda rows: rows[["error"]])
    text = "before\n<!-- results: weight-pruning -->\nold\n<!-- /results -->\nafter\n"
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "notebooks").mkdir()
    assert front_page.command(tmp_path) == 0
    expected = "before\n<!-- results: weight-pruning -->\n| error |\n| --- |\n| 1.5 |\n<!-- /results -->\nafter\n"
    assert (tmp_path / "README.md").read_text() == expected
