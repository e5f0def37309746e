"""Marks for Canvas and Moodle, read as their importers read them; and what is wrong with a class list, told."""

import csv
from pathlib import Path

import pytest

from course_lib.classroom import grade, marks
from tests.classroom.mini import UNIT, mini, needs_bwrap, submission, write

CANVAS = """\
Student,ID,SIS User ID,SIS Login ID,Section,01_mini (4711),Homework (12),Current Score
,,,,,Manual Posting,,
    Points Possible,,,,,20,10,(read only)
"Lovelace, Ada",101,s1,ada@x.org,A,,,
"Boole, George",102,s2,boole,A,,3,
"Hopper, Grace",103,,grace,B,,,
"""
MOODLE = """\
\N{BYTE ORDER MARK}First name,Last name,ID number,Email address,Assignment: 01_mini (Real),Last downloaded from this course
Ada,Lovelace,s1,ada@x.org,-,1700000000
George,Boole,s2,boole@x.org,-,1700000000
Zoë,O'Hara,s3,zoe@x.org,-,1700000000
"""
WORKSHEET = """\
Identifier,Full name,Email address,Status,Grade,Maximum Grade,Last modified (grade),Feedback comments
Participant 11,Ada Lovelace,ada@x.org,Submitted,,20.00,-,
Participant 12,George Boole,boole@x.org,Submitted,,20.00,-,"two
lines"
Participant 13,Ada Lovelace,ada2@x.org,Submitted,,20.00,-,
"""


def line(student: str, score: float | None = 17.5, notebook: str = UNIT, **changes) -> dict:
    return dict(student=student, notebook=notebook, status="graded", score=score, max_score=20.0, by_hand=0.0) | changes


def roster(platform: str, text: str, folder: Path) -> marks.Roster:
    path = folder / "roster.csv"
    path.write_text(text, encoding="utf-8")
    return marks.read_roster(platform, path)


def exported(platform: str, text: str, lines: list[dict], folder: Path) -> list[list[str]]:
    marks.export(roster(platform, text, folder), lines, folder)
    with (folder / f"{platform}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def imported_by_canvas(table: list[list[str]]) -> tuple[dict, dict]:
    """What Canvas's `gradebook_importer.rb` takes from a table: points by assignment, marks by the students' ids."""
    header, *rows = table
    assert len(header) > 3 and "Student" in header[0] and "ID" in header[1]
    assert all(len(row) == len(header) for row in rows)
    known = 3
    if header[2] == "SIS User ID" and header[3] == "SIS Login ID":
        known = 5
    assert "Section" in header[known - 1]
    points, found = {}, {}
    for row in rows:
        if "Points Possible" in row[0]:
            points = dict(zip(header[known:], map(float, row[known:]), strict=True))
        else:
            found[row[1]] = dict(zip(header[known:], row[known:], strict=True))
    return points, found


def test_canvas_finds_assignment_points_and_students(tmp_path):
    names = ["ada@x.org", "boolegeorge_LATE_102_991_01_mini-1", "s4"]
    text = CANVAS + '"Noether, Emmy",104,s4,emmy,B,,,\n'
    points, found = imported_by_canvas(exported("canvas", text, [line(name) for name in names], tmp_path))
    assert points == {"01_mini (4711)": 20}
    assert found == {number: {"01_mini (4711)": "17.5"} for number in ("101", "102", "104")}


def test_a_new_assignment_has_the_notebook_s_name_and_an_open_mark_stays_empty(tmp_path):
    lines = [line("101", notebook="02_new"), line("101", None, by_hand=20.0), line("102", 0.0, status="missing")]
    lines += [line("102", float("nan"), "02_new")]
    points, found = imported_by_canvas(exported("canvas", CANVAS, lines, tmp_path))
    assert points == {"01_mini (4711)": 20, "02_new": 20}
    assert found == {"101": {"01_mini (4711)": "", "02_new": "17.5"}, "102": {"01_mini (4711)": "0", "02_new": ""}}
    assert "(students: 2; not final, because points wait for a person: 2)" in marks.export(
        roster("canvas", CANVAS, tmp_path), lines, tmp_path
    )


def test_one_upload_for_each_notebook_is_one_student(tmp_path):
    """Canvas puts another number behind each upload; `grade` takes each for a student who misses the other notebook."""
    first, second = "boolegeorge_102_1", "boolegeorge_102_2"
    lines = [line(first), line(first, 0.0, "02_new", status="missing"), line(second, 9.0, "02_new")]
    lines += [line(second, 0.0, status="missing")]
    found = imported_by_canvas(exported("canvas", CANVAS, lines, tmp_path))[1]
    assert found == {"102": {"01_mini (4711)": "17.5", "02_new": "9"}}


def test_moodle_s_gradebook_gets_ids_and_a_column_for_each_notebook(tmp_path):
    names = ["Ada Lovelace_7_assignsubmission_file", "s2", "Zoë O'Hara"]
    table = exported("moodle", MOODLE, [line(name) for name in names], tmp_path)
    assert table[0] == ["First name", "Last name", "ID number", "Email address", UNIT]
    assert [row[2:] for row in table[1:]] == [
        [f"s{i}", f"{who}@x.org", "17.5"] for i, who in enumerate(("ada", "boole", "zoe"), 1)
    ]


def test_moodle_s_worksheet_comes_back_with_marks(tmp_path):
    names = {"Ada Lovelace_13_assignsubmission_file": 12.0, "boole@x.org": 20.0}
    header, *rows = exported("moodle", WORKSHEET, [line(*pair) for pair in names.items()], tmp_path)
    place = {name: header.index(name) for name in ("Identifier", "Grade", "Last modified (grade)", "Feedback comments")}
    found = {row[place["Identifier"]][len("Participant ") :]: row[place["Grade"]] for row in rows}
    assert found == {"12": "20", "13": "12"}
    assert rows[0][place["Feedback comments"]] == "two\nlines"


@pytest.mark.parametrize(
    ("platform", "text", "lines", "told"),
    [
        ("canvas", CANVAS, [line("bob"), line("eve")], "not in the roster: bob, eve"),
        ("canvas", CANVAS, [line(f"stranger {i}") for i in range(9)], "stranger 4 and 4 more"),
        ("canvas", CANVAS + '"Boole, G.",102,,,A,,,\n', [line("102")], "more than once: 102"),
        ("canvas", CANVAS + '"Null, Nil",,,,A,,,\n', [line("Null, Nil")], r"without an id \(ID, SIS User ID, SIS Login ID\)"),
        ("canvas", CANVAS, [line("101"), line("ada@x.org")], "two submissions: 101 and ada@x.org"),
        ("canvas", CANVAS, [line("101", None, status="unreadable", max_score=0.0)], "nothing could be graded of 01_mini"),
        ("moodle", WORKSHEET, [line("Ada Lovelace")], "more than once: Ada Lovelace"),
        ("moodle", WORKSHEET, [line("boole@x.org"), line("boole@x.org", notebook="02_new")], "name one: N=02"),
        ("moodle", WORKSHEET.replace("20.00", "100.00"), [line("boole@x.org")], "maximum grade is 100.00"),
        ("moodle", MOODLE.replace("s2,boole@x.org", ","), [line("George Boole")], r"without an id \(ID number, Email address\)"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_written(platform, text, lines, told, tmp_path):
    with pytest.raises(ValueError, match=f"no marks for {platform.title()} were written: .*{told}"):
        exported(platform, text, lines, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["roster.csv"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "Student,ID\nAda,1\n", '"Student,ID,Section\n'])
def test_another_table_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="Student, ID and, later, Section"):
        roster("canvas", text, tmp_path)
    with pytest.raises(ValueError, match="Identifier, ID number, Email address"):
        roster("moodle", text, tmp_path)


def test_bytes_that_are_no_text_and_unknown_platforms_are_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"Student\xff,ID,Section\n")
    with pytest.raises(ValueError, match="no table in UTF-8"):
        marks.read_roster("canvas", tmp_path / "x.csv")
    with pytest.raises(ValueError, match="format is 'blackboard'; allowed are canvas, moodle"):
        marks.read_roster("blackboard", tmp_path / "x.csv")


def test_a_roster_with_semicolons_is_read(tmp_path):
    text = MOODLE.replace(",", ";")
    assert exported("moodle", text, [line("s1")], tmp_path)[1] == ["Ada", "Lovelace", "s1", "ada@x.org", "17.5"]


@needs_bwrap
def test_the_command_grades_and_writes_marks_for_a_platform(tmp_path, capsys):
    write(mini(), tmp_path / "notebooks" / f"{UNIT}.ipynb")
    write(submission(), tmp_path / "in" / "lovelaceada_101_5_mine.ipynb")
    how = dict(notebooks=tmp_path / "notebooks", progress=False, workers=1)
    assert grade.command(tmp_path / "in", tmp_path / "out", roster=roster("canvas", CANVAS, tmp_path), **how) == 0
    said = capsys.readouterr().out
    assert "marks for Canvas: " in said and "(students: 1; not final" in said
    with (tmp_path / "out" / "canvas.csv").open(encoding="utf-8", newline="") as stream:
        assert imported_by_canvas(list(csv.reader(stream)))[1] == {"101": {"01_mini (4711)": "10"}}
