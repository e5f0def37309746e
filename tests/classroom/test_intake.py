"""Files that once ended the grading of a whole class: each is a line of its own, and the others are graded."""

import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm.auto import tqdm

from course_lib.classroom import collect, grade, intake, text
from course_lib.classroom.gradebook import Course
from tests.classroom.mini import UNIT, by_id, mini, submission, write
from tests.processes import ROOT

MASTERS = {UNIT: mini()}
GOOD = nbformat.writes(submission()).encode()


def told(place: Path) -> dict[str, str | None]:
    """Student -> the problem with what they handed in."""
    return {one.student: one.problem for one in collect.collect(place, MASTERS)}


def zipped(*, content: bytes = GOOD, name: str = "mine.ipynb", method: int = zipfile.ZIP_DEFLATED, count: int = 1) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for number in range(count):
            archive.writestr(name if count == 1 else f"{number}.txt", content if count == 1 else b"")
    return stream.getvalue()


def spoilt_stream(method: int) -> bytes:
    """A zip whose directory is intact and whose data are not."""
    good = zipped(method=method)
    return good[:100] + bytes(byte ^ 0x55 for byte in good[100:300]) + good[300:]


def patched(place: int, new: bytes, name: str = "mine.ipynb") -> bytes:
    """A zip with other bytes in the directory's first entry."""
    good = zipped(name=name)
    start = good.rindex(b"PK\x01\x02") + place
    return good[:start] + new + good[start + len(new) :]


def duplicate() -> bytes:
    stream = io.BytesIO(zipped())
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("mine.ipynb", GOOD)
    return stream.getvalue()


def python(program: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


def notebook(*cells: dict, **more) -> bytes:
    return json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=list(cells)) | more).encode()


def code(source: object, **more) -> dict:
    return dict(cell_type="code", source=source, metadata={}, outputs=[], execution_count=None) | more


# what is handed in: (its content, words of the reason)
BAD = {
    "deflate.zip": (spoilt_stream(zipfile.ZIP_DEFLATED), "damaged in the zip: .*(invalid|incorrect|CRC)"),
    "lzma.zip": (spoilt_stream(zipfile.ZIP_LZMA), "compressed in the zip with lzma"),
    "bzip2 bomb.zip": (zipped(content=b"0" * (1 << 26), method=zipfile.ZIP_BZIP2), "compressed in the zip with bzip2"),
    "deflate bomb.zip": (zipped(content=b"0" * (1 << 26)), "larger than 20 MiB"),
    "directory.zip": (patched(0, b"XX"), "a damaged zip file"),
    "cut.zip": (zipped()[:-30], "not a zip file, or cut off"),
    "version.zip": (patched(6, b"\x63"), "a damaged zip file .*version 9.9"),
    "utf8.zip": (patched(46, b"\xff\xfe", name="né.ipynb"), "a damaged zip file .*codec"),
    "encrypted.zip": (patched(8, b"\x01"), "^encrypted$"),
    "many.zip": (zipped(count=5_001), "more than 5,000 files"),
    "no notebook.zip": (zipped(name="notes.txt"), "without a notebook"),
    "nested.zip": (zipped(name="inner.zip", content=zipped()), "without a notebook"),
    "empty.zip": (b"", "not a zip file"),
    "twice.zip": (duplicate(), "there are two: twice.zip: mine.ipynb"),
    "empty.ipynb": (b"", "broken JSON"),
    "surrogate.ipynb": (notebook(code("x = '\ud800'")), "half a character"),
    "lists.ipynb": (b"[" + b"[]," * 600_000 + b"0]", "more than 500,000 lists"),
    "cells.ipynb": (notebook(*[code("1")] * 2_001), "more than 2,000 cells"),
    "long.ipynb": (notebook(code("x = 1\n" * 200_000)), "more than 1,000,000 characters"),
    "number.ipynb": (b'{"cells": [' + b"1" * 5_000 + b"]}", "broken JSON"),
    "source.ipynb": (notebook(code({"a": 1})), "source of a cell is no text"),
    "kind.ipynb": (notebook(code("1", cell_type=["code"])), "one of its cells is none"),
    "cell.ipynb": (notebook(None), "one of its cells is none"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "reason"), [(name, *how) for name, how in BAD.items()], ids=list(BAD))
def test_a_bad_file_is_a_line_with_its_reason_and_the_others_are_graded(name, content, reason, tmp_path):
    (tmp_path / "ada.ipynb").write_bytes(GOOD)
    (tmp_path / "zoe.zip").write_bytes(zipped())
    (tmp_path / name).write_bytes(content)
    found = told(tmp_path)
    assert found.pop("ada") is None and found.pop("zoe") is None
    ((student, problem),) = found.items()
    assert student == name.rsplit(".", 1)[0] and re.search(reason, problem) and len(problem) < 200


@pytest.mark.parametrize("name", [name for name in BAD if name.endswith(".zip") and name not in ("many.zip", "nested.zip")])
def test_a_bad_zip_of_a_class_is_refused_in_words_or_read_around(name, tmp_path):
    (tmp_path / name).write_bytes(BAD[name][0])
    try:
        problems = list(told(tmp_path / name).values())
    except ValueError as reason:
        problems = [str(reason)]
        assert re.search(f"the zip file .*{name} cannot be graded: ", problems[0])  # noqa: PT017
    assert all(problems)


def test_a_zip_of_too_many_files_and_a_zip_in_a_zip(tmp_path):
    (tmp_path / "class.zip").write_bytes(BAD["many.zip"][0])
    with pytest.raises(ValueError, match="more than 5,000 files"):
        told(tmp_path / "class.zip")
    (tmp_path / "class.zip").write_bytes(zipped(name="ada.zip", content=zipped()))
    assert told(tmp_path / "class.zip") == {"ada": intake.NESTED}


# What a file system can hold
ODD_NAMES = {
    b"x" * 243 + b".ipynb": None,
    b"\xff.ipynb": None,
    b"\xfe.ipynb": None,
    b"a_b.ipynb": "a_b",
    b"a?b.ipynb": None,
    b"a*b.ipynb": None,
    b"Ada.ipynb": "Ada",
    b"ada.ipynb": "ada",
    b"con.ipynb": None,
    b" .ipynb": None,
    b"=1+1.ipynb": None,
    b"new\nline.ipynb": None,
    "Zoë.ipynb".encode(): "Zoë",
    "\u202eevil.ipynb".encode(): None,
    ("\U0001f9d1" * 61).encode() + b".ipynb": None,
    b"UPPER.IPYNB": "UPPER",
}


def test_names_are_kept_apart_and_can_be_written_everywhere(tmp_path):
    """The class is collected, refused and summed up; names that had to be changed carry a hash."""
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    for name in ODD_NAMES:
        (place / os.fsdecode(name)).write_bytes(b"[]" if ODD_NAMES[name] is None else GOOD)
    found = collect.collect(place, MASTERS)
    assert len({one.student for one in found}) == len(ODD_NAMES)
    assert {student for student in ODD_NAMES.values() if student} == {one.student for one in found if one.problem is None}
    assert all("~" in one.student for one in found if one.problem)
    work = grade._Work(Course(out), {}, grade.Settings())
    for one in found:
        one.problem = one.problem or "any"
        assert not work.is_done(one)
        work.refuse(one)
        assert work.is_done(one)
    assert len({work._path(one) for one in found}) == len(found)
    table = work.table(found)
    grade.summary(table, grade.Settings(), out).encode()
    table.to_csv(out / "grades.csv", index=False)
    assert sorted(pd.read_csv(out / "grades.csv").student) == sorted(one.student for one in found)


def test_two_ways_to_write_a_letter_are_one_student(tmp_path):
    for name in ("Zo\u00eb.ipynb", "Zoe\u0308.ipynb"):
        (tmp_path / name).write_bytes(GOOD)
    ((student, problem),) = told(tmp_path).items()
    assert student == "Zo\u00eb" and "there are two" in problem


@given(st.text(st.characters(), max_size=300))
def test_any_name_is_safe_as_a_path_and_as_a_cell(raw):
    name = text.student_name(raw)
    assert name and len(name.encode()) <= 133 and name.isprintable() and not set(name) & set('/\\*?[]<>"&;|$`\n')
    assert name[0] not in "=+-@. '" and text.spreadsheet(name) == name
    assert text.student_name(raw + "x") != name


def test_kinds_of_files_that_are_none(tmp_path):
    (tmp_path / "ada.ipynb").write_bytes(GOOD)
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "folder.ipynb" / "01_mini.ipynb").write_bytes(GOOD)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.ipynb").symlink_to("loop.ipynb")
    os.mkfifo(tmp_path / "pipe.zip")
    deep = tmp_path.joinpath("deep", *"d" * intake.DEEPEST)
    deep.mkdir(parents=True)
    (deep / "eve.ipynb").write_bytes(GOOD)
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.ipynb")
            found = told(tmp_path)
    finally:
        os.chdir(here)
    assert found == {
        "ada": None, "folder": "a folder, not a file", "loop": "a symbolic link, which is not followed", "pipe": "not a file",
        "socket": "not a file", "d": "a folder in more than 20 others, which is not searched",
    }  # fmt: skip


UNREADABLE = """
import os, sys
from pathlib import Path
from course_lib.classroom import intake
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for file, content in intake.files(Path(sys.argv[1])):
    print(file.shown, len(content), file.problem, sep="|")
try:
    list(intake.files(Path(sys.argv[1], "shut")))
except ValueError as reason:
    print("place", 0, reason, sep="|")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone who may not read a file")
def test_what_may_not_be_read_is_told():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may not be searched by others
        place = Path(folder)
        place.chmod(0o755)
        (place / "ada.ipynb").write_bytes(GOOD)
        (place / "mine.ipynb").write_bytes(GOOD)
        (place / "mine.ipynb").chmod(0)
        (place / "zip.zip").write_bytes(zipped())
        (place / "zip.zip").chmod(0)
        (place / "shut").mkdir(mode=0)
        done = python(UNREADABLE, folder)
    lines = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    assert lines["ada.ipynb"] == [str(len(GOOD)), "None"]
    assert lines["mine.ipynb"] == lines["zip.zip"] == ["0", "cannot be read: Permission denied"]
    assert lines["shut"] == ["0", "a folder that cannot be opened: Permission denied"]
    assert lines["place"][1].endswith("cannot be opened: Permission denied")


def test_what_changes_or_goes_while_the_class_is_graded_is_not_graded(tmp_path):
    for name in ("same.ipynb", "changed.ipynb", "gone.ipynb", "link.ipynb"):
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "zip.zip").write_bytes(zipped())
    found = {one.student: one for one in collect.collect(tmp_path, MASTERS)}
    write(submission({"answer-2": "half = 3"}), tmp_path / "changed.ipynb")
    (tmp_path / "gone.ipynb").unlink()
    (tmp_path / "link.ipynb").unlink()
    (tmp_path / "link.ipynb").symlink_to("same.ipynb")
    assert found["same"].read() == GOOD and found["same"].notebook().cells
    for student in ("changed", "gone", "link"):
        with pytest.raises(ValueError, match="changed while the class was being graded"):
            found[student].notebook()
    assert found["zip"].read() == GOOD
    (tmp_path / "zip.zip").write_bytes(zipped(content=GOOD + b" "))
    with pytest.raises(ValueError, match="changed while the class was being graded"):
        found["zip"].read()


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(1, 8))
def test_a_spoilt_zip_raises_nothing(tmp_path_factory, chance: random.Random, count: int):
    place = tmp_path_factory.getbasetemp() / "spoilt"
    place.mkdir(exist_ok=True)
    content = bytearray(zipped(content=b"[]"))
    for _ in range(count):
        content[chance.randrange(len(content))] = chance.randrange(256)
    (place / "bob.zip").write_bytes(content[: chance.choice([None, chance.randrange(len(content))])])
    for file, held in intake.files(place):
        assert file.problem or held is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CELL = st.fixed_dictionaries(
    {},
    optional=dict(
        cell_type=st.sampled_from(["code", "markdown", "raw"]) | JSON,
        source=JSON,
        metadata=JSON | st.fixed_dictionaries({}, optional=dict(tags=JSON, nbgrader=st.dictionaries(st.just("grade_id"), JSON))),
    ),
)


@given(st.lists(CELL | JSON, max_size=3), JSON)
def test_of_any_json_there_is_a_notebook_that_can_be_written_or_a_reason(cells, metadata):
    try:
        read = collect.read(json.dumps(dict(nbformat=4, cells=cells, metadata=metadata)).encode())
    except ValueError as reason:
        assert 0 < len(str(reason)) < 250  # noqa: PT017
    else:
        nbformat.writes(read).encode()


def test_memory_is_bounded_by_the_largest_notebook(tmp_path):
    """40 notebooks of 19 MB, in a zip of less than 1 MB, once took 928 MiB."""
    large = submission()
    by_id(large)["answer-1"].outputs = [nbformat.v4.new_output("stream", text="x" * 19_000_000)]
    content = nbformat.writes(large).encode()
    with zipfile.ZipFile(tmp_path / "class.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"student {number}.ipynb", content)
    assert (tmp_path / "class.zip").stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        found = collect.collect(tmp_path / "class.zip", MASTERS)
        assert len(found) == 40 and not any(one.problem for one in found)
        assert len(found[-1].notebook().cells) == len(large.cells)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"peak {peak >> 20} MiB, kept {kept >> 10} KiB")
    assert peak < 5 * len(content) and kept < len(content) / 10


def test_a_file_that_changes_after_it_was_collected_leaves_the_others_to_be_graded(tmp_path, monkeypatch):
    for student in ("ada", "bob", "cid"):
        (tmp_path / f"{student}.ipynb").write_bytes(GOOD)
    found = collect.collect(tmp_path, MASTERS)
    (tmp_path / "ada.ipynb").unlink()
    (tmp_path / "bob.ipynb").write_bytes(GOOD + b" ")
    work, finished = grade._Work(Course(tmp_path / "out"), MASTERS, grade.Settings()), []
    monkeypatch.setattr(grade.apart, "run", lambda job: json.dumps(len(json.loads(job)["submission"]["cells"])))
    monkeypatch.setattr(work, "_finish", lambda one, outcome: finished.append((one.student, outcome)))
    work.run(found, tqdm(disable=True), 1, None)
    assert finished == [("cid", len(submission().cells))] and set(work.failures) == {("ada", UNIT), ("bob", UNIT)}
    lines = work.table(found).set_index("student")
    assert "changed while the class was being graded" in lines.reasons["ada"] and lines.status["bob"] == "not done"
