"""Student copies hold no solution, no hidden test, no output; found by searching for them."""

import copy
import json

import nbformat
import pytest

from course_lib.classroom import release
from tests import exercises
from tests.classroom.mini import UNIT, by_id, mini, write


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """All of the course's notebooks, released."""
    out = tmp_path_factory.mktemp("re lease")
    assert release.command(out=out) == 0
    return out / "release"


@pytest.mark.parametrize("path", sorted(exercises.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_courses_copies_hold_nothing_secret(path, released):
    master, copied = (nbformat.read(p, as_version=4) for p in (path, released / path.stem / path.name))
    text = (released / path.stem / path.name).read_text(encoding="utf-8")
    hidden, shown = set(), set()
    for cell in master.cells:
        inside = cell in by_id(master).values() and cell.cell_type == "markdown" and cell.metadata.nbgrader.solution
        for line in cell.source.splitlines():
            inside |= "### BEGIN" in line
            (hidden if inside else shown).add(line.strip())
            inside &= "### END" not in line
    openly = "\n".join(shown)
    hidden = {line for line in hidden if len(line) > 12 and line not in openly}  # a closing bracket stands anywhere
    for line in hidden:
        assert json.dumps(line)[1:-1] not in text
    assert len(hidden) >= 15, "the search has something to search for"
    assert not any(cell.get("outputs") or "jupyter" in cell.metadata for cell in copied.cells)
    assert sorted(by_id(copied)) == sorted(by_id(master))
    assert release.leaks(master, copied) == [] and release.leaks(master, master)
    exercise = by_id(copied)["answer-1"].source
    assert "raise NotImplementedError" in exercise
    for name, cell in by_id(copied).items():
        if name.endswith("-visible"):
            assert cell.source == by_id(master)[name].source and cell.metadata.nbgrader.points > 0


@pytest.fixture(scope="module")
def mini_copy(tmp_path_factory):
    out = tmp_path_factory.mktemp("mini")
    write(mini(), out / "notebooks" / f"{UNIT}.ipynb")
    release.command(out=out, notebooks=out / "notebooks")
    copied = nbformat.read(out / "release" / UNIT / f"{UNIT}.ipynb", as_version=4)
    assert release.leaks(mini(), copied) == []
    return copied


@pytest.mark.parametrize(
    ("place", "change", "told"),
    [
        ("answer-1", dict(source="def double(x):\n    return 2 * x"), "return 2 * x"),
        ("answer-3", dict(source="The model answer in words."), "The model answer in words."),
        ("task-1", dict(source="hint: _secret_oracle = [6, -2, 0]\n_secret_oracle = [6, -2, 0]"), "_secret_oracle = [6, -2, 0]"),
        ("answer-1", dict(outputs=[nbformat.v4.new_output("stream", text="4")]), "an output of cell 5"),
        ("answer-1", dict(metadata=dict(jupyter=dict(source_hidden=True))), "cell 5 is folded"),
    ],
)
def test_a_leak_is_found(place, change, told, mini_copy):
    leaking = copy.deepcopy(mini_copy)
    for name, value in change.items():
        if name == "metadata":
            by_id(leaking)[place].metadata |= value
        else:
            by_id(leaking)[place][name] = value
    assert told in release.leaks(mini(), leaking)


def test_an_unknown_notebook_is_refused(tmp_path):
    write(mini(), tmp_path / f"{UNIT}.ipynb")
    with pytest.raises(ValueError, match="begins with '09'"):
        release.command("09", out=tmp_path / "build", notebooks=tmp_path)


def test_a_copy_that_leaks_is_taken_away_again(tmp_path, monkeypatch):
    write(mini(), tmp_path / f"{UNIT}.ipynb")
    monkeypatch.setattr(release.Course, "assign", lambda course, unit, master: write(master, tmp_path / "release" / "x.ipynb"))
    with pytest.raises(RuntimeError, match="must not"):
        release.command(out=tmp_path / "build", notebooks=tmp_path)
    assert not (tmp_path / "release").exists()
