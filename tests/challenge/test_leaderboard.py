"""A class's leaderboard: whose each file is, places and fronts, and a page in which nothing that a student wrote acts."""

import html.parser
import io
import os
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import __main__ as command_line
from course_lib.challenge import handed_in, page, places
from course_lib.challenge.measuring import Digits
from course_lib.classroom.intake import LARGEST_ZIP
from course_lib.commands import execute
from course_lib.data import Split
from course_lib.files import ROOT
from tests.challenge.small import content
from tests.classroom.mini import needs_bwrap

STARTER = ROOT / "data" / "challenge" / "starter.ipynb"
NO_DIGITS = Digits(Split(None, None), Split(None, None), "mnist")
few = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12)


def row(name: str = "ada", size: int = 1_000, wrong: int = 100, **others) -> dict:
    own = dict(kind=places.CLASS, name=name, file=f"{name}.cnet", network="lenet-5", widths="2-3-4", bytes=size)
    own |= dict(size_class=places.size_class(size), test_wrong=wrong, test_error=wrong / 100)
    return own | dict(warped_wrong=2 * wrong, warped_error=wrong / 50) | others


# Places and fronts


@settings(max_examples=200)
@given(few)
def test_the_front_is_what_nothing_dominates(pairs):
    best = [
        place
        for place, (size, error) in enumerate(pairs)
        if not any(a <= size and b <= error and (a, b) != (size, error) for a, b in pairs)
    ]
    found = places.front(*zip(*pairs, strict=True)) if pairs else []
    assert sorted(found) == best and [pairs[i][0] for i in found] == sorted(pairs[i][0] for i in found)


def test_ties_share_a_place_and_the_next_is_skipped():
    rows = [row("ada", 1_900, 90), row("bob", 1_500, 80), row("cyd", 1_900, 90), row("dan", 1_900, 91), row("eve", 1_800, 90)]
    found = places.table(rows).set_index("name").place.to_dict()
    assert found == {"bob": 1, "eve": 2, "ada": 3, "cyd": 3, "dan": 5}


def test_each_network_and_size_class_has_places_of_its_own():
    rows = [row("ada", 1_200, 90), row("bob", 1_201, 80), row("cyd", 60_000, 10), row("dan", 1_100, 95, network="lenet-300-100")]
    table = places.table([*rows, row("own", 900, 50, kind=places.COURSE)])
    assert table.set_index("name").place.dropna().to_dict() == {"ada": 1, "bob": 1, "cyd": 1, "dan": 1}
    assert table.set_index("name").front.dropna().to_dict() == {"own": 1, "cyd": 2, "dan": 1}


def test_what_others_published_is_in_the_table():
    found = pd.DataFrame(places.references(NO_DIGITS, Path("no such folder")))
    pairs = set(zip(found.network, found.bytes, found.test_error, strict=True))
    assert {("lenet-300-100", 8560, 1.9), ("lenet-5", 1694, 0.83), ("lenet-5", 1140, 0.98), ("lenet-5", 2840, 1.0)} <= pairs
    assert (found.kind == places.PUBLISHED).all() and pd.read_csv(places.FOLDER / "published.csv").source.notna().all()


# What is handed in


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, held in files.items():
            archive.writestr(name, held)
    return stream.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, held in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(held)
    return folder


def told(place: Path) -> list[tuple[str, str]]:
    return [(one.student, one.problem) for one in handed_in.collect(place)]


def test_whose_a_file_is(tmp_path):
    files = {
        "ada.cnet": b"1",
        "bob_12_assignsubmission_file/x.cnet": b"2",
        "Zoë/a/b.CNET": b"3",
        "notes.txt": b"",
        "mac/._x.cnet": b"",
    }
    put(tmp_path / "class", files | {"eve.zip": zipped({"ada.cnet": b"4", "deep/x.cnet": b"5"})})
    found = {(one.student, one.content) for one in handed_in.collect(tmp_path / "class")}
    assert found == {("ada", b"1"), ("bob_12_assignsubmission_file", b"2"), ("Zoë", b"3"), ("eve", b"4"), ("eve", b"5")}
    put(tmp_path, {"class.zip": zipped({"hand-in/ada.cnet": b"1", "hand-in/bob/x.cnet": b"2"})})
    assert [one.student for one in handed_in.collect(tmp_path / "class.zip")] == ["ada", "bob"]


def test_what_cannot_be_scored_is_told_and_the_others_are_found(tmp_path):
    put(
        tmp_path,
        {"ada.cnet": b"1", "big.cnet": bytes(65_537), "cut.zip": zipped({"x.cnet": b"1"})[:30], "none.zip": zipped({"x": b""})},
    )
    put(tmp_path, {"bomb.zip": zipped({"x.cnet": bytes(30 << 20)}), "out.zip": zipped({"../x.cnet": b"1"})})
    (tmp_path / "link.cnet").symlink_to(tmp_path / "ada.cnet")
    (tmp_path / "folder.cnet").mkdir()
    os.mkfifo(tmp_path / "pipe.cnet")
    with (tmp_path / "sparse.zip").open("wb") as stream:
        stream.truncate(LARGEST_ZIP + 1)
    found = dict(told(tmp_path))
    expected = {
        "ada": "", "big": "more than 65,536", "cut": "not a zip file", "none": "without a .cnet file", "out": "leads out of it",
        "bomb": "larger than 20 MiB", "sparse": "larger than 200", "link": "a symbolic link", "folder": "a folder",
        "pipe": "not a file",
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(expected[name] in found[name] for name in found) and found["ada"] == ""


def test_five_files_of_a_student_are_scored(tmp_path):
    put(tmp_path, {f"ada/{number}.cnet": b"1" for number in range(7)} | {"bob.cnet": b"1"})
    assert [problem[:16] for _, problem in told(tmp_path)] == [""] * 5 + ["more than 5 file"] * 2 + [""]


def test_nothing_handed_in_is_an_error(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    arguments = ["challenge", "--submissions", str(tmp_path), "--out", str(tmp_path / "out"), "--no-sandbox"]
    assert command_line.main(arguments) == 2 and "no .cnet file is in" in capsys.readouterr().err


# Commands


class Tags(html.parser.HTMLParser):
    """The elements of a page, and where they lead."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.places: list[str] = []
        self.alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        found = dict(attributes)
        self.places += [value for name, value in found.items() if name in ("src", "href") or name.startswith("on")]
        self.alt += [found["alt"]] if tag == "img" else []


ELEMENTS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "i", "img", "div"}
ELEMENTS |= {"table", "thead", "tbody", "tr", "th", "td"}
HOSTILE = "<img src=x onerror=alert(1)>"


def scored(tmp_path: Path, *flags: str) -> tuple[pd.DataFrame, str]:
    """Table and page of a class of five, one of them hostile in name, one damaged."""
    good = content(widths=(2, 3, 4))
    files = {"ada.cnet": good, "bob.cnet": good, f"{HOSTILE}.cnet": content("lenet-300-100", (5, 4)), "=1+1/cut.cnet": good[:-9]}
    put(tmp_path / "class", files | {"=cmd|x.cnet": content(seed=1), "eve.cnet": os.urandom(500)})
    out = tmp_path / "out"
    arguments = ["challenge", "--submissions", str(tmp_path / "class"), "--out", str(out), "--seed", "5", *flags]
    assert command_line.main(arguments) == 0 and {path.name for path in out.iterdir()} == {"leaderboard.csv", "leaderboard.html"}
    return pd.read_csv(out / "leaderboard.csv"), (out / "leaderboard.html").read_text(encoding="utf-8")


def test_a_class_is_scored(tmp_path, capsys):
    table, text = scored(tmp_path, "--no-sandbox")
    own = table[table.kind == "class"].set_index("file")
    assert own.place[["ada.cnet", "bob.cnet"]].tolist() in ([1, 1], [2, 2]) and own.place[f"{HOSTILE}.cnet"] == 1
    assert own.problem.notna().sum() == 2 and own.bytes["ada.cnet"] == len(content(widths=(2, 3, 4)))
    assert not any(str(value)[:1] in tuple("=+-@") for value in table.select_dtypes(exclude="number").to_numpy().ravel())
    tags = Tags(text)
    assert tags.tags <= ELEMENTS and all(place.startswith("data:image/svg+xml;base64,") for place in tags.places)
    assert len(set(tags.alt)) == 2 and all("bytes against error" in alt for alt in tags.alt)
    assert "&lt;img src=x onerror=alert(1)&gt;" in text and "Not scored" in text
    said = capsys.readouterr().out
    assert "4 files scored, 2 not" in said and "no figure here counts" in said and "seed 0" not in said


@needs_bwrap
def test_a_class_is_scored_in_the_sandbox(tmp_path):
    table, _ = scored(tmp_path)
    assert table[table.kind == "class"].problem.notna().sum() == 2


def test_a_page_whose_writing_fails_leaves_the_old_one(tmp_path, monkeypatch):
    put(tmp_path, {"class/ada.cnet": content(), "out/leaderboard.html": b"old"})
    monkeypatch.setattr(page, "figure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["challenge", "--submissions", str(tmp_path / "class"), "--out", str(tmp_path / "out"), "--no-sandbox"])
    assert (tmp_path / "out" / "leaderboard.html").read_text() == "old"
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"leaderboard.csv", "leaderboard.html"}


def test_a_page_shows_errors_of_zero_and_of_all():
    rows = [row("ada", 1_000, 0), row("bob", 900, 10_000), row("own", 950, 50, kind=places.COURSE)]
    text = page.page(places.table(rows + places.references(NO_DIGITS, Path("none"))), seed=3)
    assert "seed 3" in text and not any(word in text for word in (">NaN<", ">nan<", "&lt;NA&gt;", "None"))
    assert "goes from 900 bytes and 200.00 % error to 1,000 bytes and 0.00 % error" in Tags(text).alt[1]


def test_a_file_is_scored_and_placed(tmp_path, capsys):
    put(tmp_path, {"mine.cnet": content()})
    assert command_line.main(["score", str(tmp_path / "mine.cnet")]) == 0
    said = capsys.readouterr().out
    size = len(content())
    assert f"mine.cnet: {size:,} bytes, a lenet-5 of widths 2-3-4, in the class up to 1,200 bytes" in said
    assert "MIRACLE" in said and "not known" in said and "On the test digits it is on the Pareto front" in said


@pytest.mark.parametrize("held", [b"", b"CNET", content()[:-1], np.zeros(70_000, np.uint8).tobytes()], ids=len)
def test_a_file_that_cannot_be_scored_is_an_error_line(tmp_path, capsys, held):
    put(tmp_path, {"mine.cnet": held})
    assert command_line.main(["score", str(tmp_path / "mine.cnet")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1


# The starter


def test_the_committed_starter_is_fit_to_read_and_short():
    cells = [cell for cell in nbformat.read(STARTER, as_version=4).cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    assert execute.check(STARTER) == [] and len(lines) <= 20


def test_the_starter_makes_a_valid_file(tmp_path):
    notebook = nbformat.read(STARTER, as_version=4)
    assert execute.execute(notebook, tmp_path / STARTER.name) is None
    assert "mine.cnet: " in notebook.cells[-2].outputs[-1].text
    assert (tmp_path / "mine.cnet").stat().st_size < 20_000
