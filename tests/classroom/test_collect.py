"""Submissions as they come: nbgrader's layout, flat, zipped; and what must not be taken."""

import json
import os
import stat
import zipfile

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.classroom import collect
from tests.classroom.mini import UNIT, mini, submission, write

MASTERS = {UNIT: mini()}


@pytest.fixture(scope="module")
def content() -> bytes:
    return nbformat.writes(submission()).encode()


def found(place, masters=MASTERS):
    return {(one.student, one.unit): one.problem for one in collect.collect(place, masters)}


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("ada.ipynb", "ada"),
        (f"ada_{UNIT}.ipynb", "ada"),
        (f"Ada L_123_assignsubmission_file/{UNIT}.ipynb", "Ada L_123_assignsubmission_file"),
        (f"ada/{UNIT}/{UNIT}.ipynb", "ada"),
        (f"class/ada/{UNIT}/{UNIT}.ipynb", "ada"),
        (f"{UNIT}/ada.ipynb", "ada"),
        ("Zoë O'Hara.ipynb", "Zoë O'Hara"),
    ],
)
def test_whose_a_file_is_in_a_folder_and_in_a_zip(path, student, content, tmp_path):
    place = tmp_path / "in" / path
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    (tmp_path / "in" / "readme.txt").write_text("not a submission")
    assert found(tmp_path / "in") == {(student, UNIT): None}
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
        archive.writestr(path, content)
        archive.writestr("__MACOSX/._ada.ipynb", "rubbish")
    assert found(tmp_path / "class.zip") == {(student, UNIT): None}


def test_which_notebook_it_is_tells_what_is_in_it(tmp_path):
    other = new_notebook(
        cells=[new_markdown_cell("### Another question", metadata=dict(nbgrader=dict(grade_id="task-1", grade=False)))]
    )
    masters = MASTERS | {"02_other": other}
    write(submission(), tmp_path / "ada.ipynb")
    write(other, tmp_path / "bob.ipynb")
    write(other, tmp_path / "eve" / f"{UNIT}.ipynb")
    write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "zoe.ipynb")
    told = found(tmp_path, masters)
    assert told["ada", UNIT] is None and told["bob", "02_other"] is None
    assert "it is notebook 02_other" in told["eve", UNIT]
    assert "none of 01_mini, 02_other" in told["zoe", "?"]


def test_what_cannot_be_read_is_told(content, tmp_path):
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    (tmp_path / "deep.ipynb").write_text("[" * 200_000)
    (tmp_path / "binary.ipynb").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.ipynb").write_text("[]")
    (tmp_path / "old.ipynb").write_text(json.dumps(dict(nbformat=3, worksheets=[])))
    (tmp_path / "odd.ipynb").write_text(json.dumps(dict(nbformat=4, cells=[dict(cell_type="code", source=5, metadata=[])])))
    with (tmp_path / "huge.ipynb").open("wb") as stream:
        stream.truncate(collect.LARGEST + 1)
    (tmp_path / "notzip.zip").write_text("no")
    (tmp_path / "link.ipynb").symlink_to("/etc/passwd")
    (tmp_path / "linked").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe.ipynb")
    (tmp_path / "ada.ipynb").write_bytes(content)
    told = {student: problem for (student, _), problem in found(tmp_path).items()}
    assert told.pop("ada") is None
    reasons = dict.fromkeys(("broken", "deep", "binary"), "broken JSON") | dict.fromkeys(("list", "old", "odd"), "not a notebook")
    reasons |= dict(huge="larger than", notzip="not a zip", link="symbolic link", linked="symbolic link", pipe="not a file")
    assert told.keys() == reasons.keys()
    for student, reason in reasons.items():
        assert reason in told[student]


def test_a_zip_leads_nowhere(content, tmp_path):
    place = tmp_path / "deep" / "down"
    place.mkdir(parents=True)
    link = zipfile.ZipInfo("linked.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(place / "class.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped.ipynb", content)
        archive.writestr("..\\windows.ipynb", content)
        archive.writestr("/absolute.ipynb", content)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.ipynb", b"\0" * (collect.LARGEST + 1))
        archive.writestr("ada.ipynb", content)
    told = {student: problem for (student, _), problem in found(place / "class.zip").items()}
    assert told.pop("ada") is None
    assert "leads out of it" in told["escaped"] and "leads out of it" in told["absolute"] and "leads out of it" in told["windows"]
    assert "link" in told["linked"] and "larger than" in told["bomb"] and len(told) == 5
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["class.zip", "deep", "down"]
    with zipfile.ZipFile(place / "mallory.zip", "w") as archive:  # a student's own zip cannot hand in for another
        archive.writestr("bob.ipynb", content)
    assert found(place)["mallory", UNIT] is None and ("bob", UNIT) not in found(place)


def test_two_of_one_student_are_not_guessed_between(content, tmp_path):
    for name in (f"ada_{UNIT}.ipynb", "ada.ipynb"):
        (tmp_path / name).write_bytes(content)
    assert "there are two" in found(tmp_path)["ada", UNIT]


def test_a_place_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither"):
        collect.collect(tmp_path / "nowhere", MASTERS)
