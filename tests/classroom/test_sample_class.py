"""The page that takes an instructor to a graded class: its commands, in order, do what it says, within its fifteen minutes."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_lib.classroom.similarity import MODEL
from tests.classroom.mini import needs_bwrap
from tests.lab_server import copy_course
from tests.processes import ROOT
from tests.sample_class import STUDENTS, disguised

PAGE = (ROOT / "notebooks" / "SAMPLE_CLASS.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```bash\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
MINUTES = 15
UNIT = "02_weight_pruning"


def course(place: Path) -> Path:
    """A copy of what a clone holds, as far as the page's commands need it."""
    copy_course(place)
    shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, place)
    return place


def walk(command: str, place: Path) -> str:
    """Runs a command of the page with this interpreter in place of that which `make` would install, and returns what it said."""
    assert command.startswith("make ")
    words = ["make", "-o", ".venv/.installed", f"VENV_PYTHON={sys.executable}", *command.split()[1:]]
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "COURSE_"))}
    keep["PYTHONPATH"] = os.pathsep.join([str(place), keep.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(words, cwd=place, env=keep, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@needs_bwrap
@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
def test_the_page_s_commands_take_a_clone_to_marks(tmp_path):
    place, start = course(tmp_path / "the course"), time.monotonic()
    said = [walk(command, place) for command in COMMANDS]
    assert time.monotonic() - start < 60 * MINUTES and len(said) == 5
    marks = place / "build" / "sample" / "marks"
    scores = {row["student"].split("_")[0]: (row["status"], row["score"]) for row in table(marks / "grades.csv")}
    assert {student: scores[student] for student in ("adalovelace", "benadler", "cleopark")} == dict.fromkeys(
        ("adalovelace", "benadler", "cleopark"), ("graded", "16.0")
    )
    assert [scores[student] for student in ("danosei", "everossi", "faylind")] == [
        ("graded", "2.0"), ("graded", "0.0"), ("unreadable", ""),
    ]  # fmt: skip
    assert len(list(marks.glob(f"feedback/*/{UNIT}/{UNIT}.html"))) == 5
    pairs = {frozenset((row["student"].split("_")[0], row["other"].split("_")[0])) for row in table(marks / "similarity.csv")}
    assert {frozenset(("benadler", "cleopark")), frozenset(("adalovelace", MODEL))} <= pairs
    _, *rows = table(marks / "canvas.csv")
    assert {row["ID"]: row[f"{UNIT} (501)"] for row in rows} == dict(
        zip(map(str, STUDENTS.values()), ("16", "16", "16", "2", "0", ""), strict=True)
    )
    assert "not final, because points wait for a person: 5" in said[-1]


def test_a_sample_before_its_release_is_told(tmp_path):
    command = [sys.executable, "-m", "tests.sample_class", "x", "--only", "99"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2 and "make release N=99 makes it" in done.stderr and not (ROOT / "x").exists()


def test_a_disguise_is_the_same_program():
    source = "def f(a, n=2):\n    # doubles\n    total = [n * x for x in a]\n    return total\n"
    made = disguised(source)
    names: dict = {}
    exec(made, names)
    assert names["f"]([1, 2], n=3) == [3, 6] and "total_2" in made and "#" not in made


@pytest.mark.parametrize("page", ["SAMPLE_CLASS.md", "INSTRUCTORS.md"])
def test_a_page_s_pictures_are_there_and_small_and_its_links_lead_somewhere(page):
    text = (ROOT / "notebooks" / page).read_text(encoding="utf-8")
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text)
    assert len(pictures) >= 2
    for alt, path in pictures:
        assert len(alt) > 40 and (ROOT / "notebooks" / path).stat().st_size < 80_000
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert path.startswith("https://") or (ROOT / "notebooks" / path).exists(), path
