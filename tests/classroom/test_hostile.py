"""A class of which half attacks: it is graded to the end, nobody gains a point by it, and the summary tells what happened."""

import os
import re
import socket
import stat
import tempfile
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.classroom import grade
from course_lib.classroom.sandbox import Limits
from course_lib.files import ROOT
from tests.classroom.mini import RIGHT, UNIT, by_id, mini, needs_bwrap, submission, write

LIMITS = Limits(memory=1 << 30, processes=40, disk=16 << 20, output=1 << 18, cell_seconds=5, seconds=90)
WRONG = {"answer-1": "def double(x):\n    return x", "answer-2": "half = 0"}  # no point without a trick
LOOP = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"
HANGS = "def double(x):\n    while True:\n        pass"
FILLS = "with open('/tmp/big', 'wb') as f:\n    while True:\n        f.write(bytes(1 << 20))"
LIAR = "class Liar(int):\n    __eq__ = __ge__ = lambda self, other: True\n    __hash__ = int.__hash__\n\n"
DROPS_ASSERT = """
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Drop())
"""
FORGES = """
import json, os, socket, stat
def double(x):
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                for reply in ({"result": x * 2, "changed": {}}, {"next": 0, "gone": []}, ["no object"], "[" * 99999):
                    text = json.dumps(reply).encode()
                    os.write(fd, len(text).to_bytes(8, "big") + text)
        except OSError:
            pass
    return x
"""
MANY = """
import os, time
for i in range(6):
    if os.fork() == 0:
        held = b'x' * (400 << 20)
        time.sleep(60)
time.sleep(60)
"""
SPOILS_LIBRARIES = """
import builtins
import numpy as np
from course_lib import scale
np.allclose = np.array_equal = lambda *a, **k: True
scale.pick = print
builtins.all = lambda items: True
"""
WRITES = """
import os
from pathlib import Path
wrote = []
for place in {places}:
    try:
        Path(place).write_text("mine")
        wrote.append(place)
    except OSError:
        pass
print("wrote", wrote)
"""
READS = """
from pathlib import Path
print("read", [p for p in {places} if Path(p).exists()])
print("beside", sorted(p.name for p in Path({root}).iterdir()))
"""
CALLS = """
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    print("through")
except OSError as reason:
    print("refused", reason)
"""

LINKS = """
import os, time
from ipykernel.kernelapp import IPKernelApp
os.unlink("/tmp/kernel-3")
os.symlink({path!r}, "/tmp/kernel-3")
IPKernelApp.instance().stdin_socket.close(0)
time.sleep(1)  # ten times as long as ZeroMQ waits before it connects again
"""
HOST_SOCKET = f"{tempfile.gettempdir()}/course-{os.getpid()}"

ANY = {"graded", "timed out", "crashed", "flagged"}  # which limit is met first depends on the machine
# A thread of the kernel itself, or ZeroMQ, may be the one that gets no memory: then the kernel aborts. On a busy machine the bomb
# takes longer than a cell may
NO_MEMORY = "MemoryError|MiB of memory|its kernel died|ran longer than 5 s"
# student: (what is handed in besides wrong answers, status, words of the reason)
ATTACKS = {
    "fork bomb": (dict(extra="import os\nwhile True:\n    os.fork()"), ANY, ""),
    "memory bomb": (dict(extra="hoard = []\nwhile True:\n    hoard.append(b'x' * (1 << 24))"), ANY, NO_MEMORY),
    "memory of many": (dict(extra=MANY), {"crashed"}, "1024 MiB of memory"),
    "endless": (dict(answers={"answer-1": "while True:\n    pass"}), {"timed out"}, "answer-1 ran longer than 5 s"),
    "endless in a call": (dict(answers={"answer-1": HANGS}), {"timed out"}, "ran longer than 5 s"),
    "not to be stopped": (dict(extra=LOOP), {"timed out"}, "could not be interrupted"),
    "disk": (dict(extra=FILLS), {"graded"}, "OSError"),
    "kills itself": (dict(extra="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), {"crashed"}, "its kernel died"),
    "kills in a call": (dict(answers={"answer-1": "import os\ndef double(x):\n    os._exit(0)"}), {"crashed"}, "its kernel died"),
    "drops assert": (dict(extra=DROPS_ASSERT), {"flagged"}, "failures are hidden in its kernel before the tests: assert"),
    "new helpers": (dict(extra="np = factor = _secret_oracle = None"), {"graded"}, "another meaning: np"),
    "spoils libraries": (dict(extra=SPOILS_LIBRARIES), {"flagged"}, "stand on: builtins.all, course_lib.scale.pick, numpy.allcl"),
    "exits": (dict(extra="import sys\nsys.exit(0)", answers={"answer-1": "import sys\ndef double(x):\n    sys.exit(0)"}),
              {"graded"}, "SystemExit"),
    "a gigabyte": (dict(extra="for i in range(999):\n    print('x' * 10**6)"), ANY, f"printed more|longer|{NO_MEMORY}"),
    "liar": (dict(answers={"answer-1": LIAR + "def double(x):\n    return Liar(x)", "answer-2": LIAR + "half = Liar()"}),
             {"graded"}, ""),
    "forger": (dict(answers={"answer-1": FORGES}), {"crashed"}, "what is no message"),
    "links a socket": (dict(extra=LINKS.format(path=HOST_SOCKET)), {"graded"}, ""),
    "an error that cannot be sent": (dict(answers={"answer-1": "def double(x):\n    raise ValueError(chr(0xd800))",
                                                   "answer-2": "half = chr(0xd800)"}), {"graded"}, ""),
    "an error too large": (dict(answers={"answer-1": "def double(x):\n    raise type('x' * 140_000, (BaseException,), {})('no')",
                                         "answer-2": "half = 'x' * 2_000_000"}), {"graded"}, ""),
}  # fmt: skip
UNREADABLE = {
    "broken": "broken JSON", "nothing": "not a notebook", "other": "none of", "linked": "symbolic link",
    "zip out": "leads out of it", "zip link": "a link in the zip",
}  # fmt: skip


def hand_in(folder: Path, out: Path, notebooks: Path, port: int) -> None:
    """Writes the submissions of all students."""
    write(submission(), folder / "ada.ipynb")
    places = [out / "gradebook.db", folder / "ada.ipynb", notebooks / f"{UNIT}.ipynb", Path(__file__), out]
    outside = [out / "marks.txt", ROOT / "course_lib" / "scale.py", ROOT / "data" / "mine", "/etc/mine", "/usr/mine", "/mine"]
    reads = READS.format(places=[str(p) for p in places], root=repr(str(ROOT)))
    writes = WRITES.format(places=[str(p) for p in outside])
    write(submission(WRONG, reads + writes + CALLS.format(port=port)), folder / "probes.ipynb")
    for student, (given, *_) in ATTACKS.items():
        write(submission(WRONG | given.get("answers", {}), given.get("extra")), folder / f"{student}.ipynb")
    edited = submission(WRONG)
    by_id(edited)["test-1-visible"].source = "assert True"
    by_id(edited)["test-1-hidden"].metadata.nbgrader |= dict(points=1000, grade=False)
    edited.cells.remove(by_id(edited)["test-2-hidden"])
    write(edited, folder / "edits tests.ipynb")
    shows = "from IPython.display import HTML, display\ndisplay(HTML('<script>steal()</script>'))"
    write(submission(RIGHT, shows), folder / "scripts.ipynb")
    folder.joinpath("broken.ipynb").write_text('{"cells": [')
    folder.joinpath("nothing.ipynb").write_text("[]")
    write(new_notebook(cells=[new_code_cell("1")]), folder / "other.ipynb")
    folder.joinpath("linked.ipynb").symlink_to("/etc/passwd")
    link = zipfile.ZipInfo("linked.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for name, entry, content in (("zip out", "../../x.ipynb", nbformat.writes(submission())), ("zip link", link, "/etc/passwd")):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr(entry, content)


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> tuple[pd.DataFrame, Path, bool, str]:
    """The table, the folder of results, whether a call came through, and the summary."""
    base = tmp_path_factory.mktemp("cla ss")
    folder, out, notebooks = base / "submitted", base / "out", base / "notebooks"
    write(mini(), notebooks / f"{UNIT}.ipynb")
    settings = grade.Settings(limits=LIMITS)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as on_host:
        on_host.bind(HOST_SOCKET)
        on_host.listen()
        hand_in(folder, out, notebooks, server.getsockname()[1])
        table = grade.grade(folder, out, settings=settings, notebooks=notebooks, progress=False, workers=3)
        through = accepted(server) or accepted(on_host)
    os.unlink(HOST_SOCKET)
    return table.set_index("student"), out, through, grade.summary(table, settings, out)


def accepted(server: socket.socket) -> bool:
    """Whether someone has called."""
    server.settimeout(0)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def printed(out: Path, student: str) -> str:
    notebook = nbformat.read(out / "autograded" / student / UNIT / f"{UNIT}.ipynb", as_version=4)
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


pytestmark = pytest.mark.timeout(600)  # the first of them grades the class


@needs_bwrap
def test_the_class_is_graded_and_the_machine_is_fine(graded):
    table, out, _, summary = graded
    assert len(table) == len(ATTACKS) + len(UNREADABLE) + 4 and not (table.status == "not done").any()
    for honest in ("ada", "scripts"):
        assert table.status[honest] == "graded" and table.score[honest] == 10 and table.by_hand[honest] == 10
    assert not [p for p in psutil.Process().children(recursive=True) if p.name() in ("bwrap", "prlimit")]
    assert sorted(pd.read_csv(out / "grades.csv").student) == sorted(table.index)
    assert not (out.parent / "x.ipynb").exists()
    for count in (f"{sum(table.status == 'crashed'):>2}", "unreadable: 6", "changed test cells: 1"):
        assert count in summary


@needs_bwrap
@pytest.mark.parametrize("student", ATTACKS)
def test_an_attack_gains_nothing_and_is_told(student, graded):
    table, _, _, summary = graded
    _, statuses, reason = ATTACKS[student]
    line = table.loc[student]
    assert line.status in statuses and re.search(reason, line.reasons)
    assert pd.isna(line.score) or line.score == 0
    assert pd.isna(line.score) == (line.status in ("crashed", "flagged")) or line.status == "timed out"
    assert (f"{UNIT}  {student}  {line.status}" in summary) == (line.status != "graded" or bool(line.reasons))


@needs_bwrap
def test_nothing_outside_is_read_written_or_called(graded):
    table, out, through, _ = graded
    told = printed(out, "probes")
    assert "read []\nbeside [" in told and not {"notebooks", "tests", "build"} & set(re.findall(r"'([^']+)'", told))
    assert "wrote []" in told and "refused" in told and not through
    assert table.score["probes"] == 0 and table.status["probes"] == "graded"
    assert not (out / "marks.txt").exists()


@needs_bwrap
def test_changed_tests_are_the_instructors_again(graded):
    line = graded[0].loc["edits tests"]
    assert line.score == 0 and line.max_score == 20 and line.status == "graded"
    assert "test-1-visible was changed" in line.reasons and "test-2-hidden was missing" in line.reasons


@needs_bwrap
@pytest.mark.parametrize(("student", "reason"), UNREADABLE.items())
def test_what_is_no_submission_is_told(student, reason, graded):
    line = graded[0].loc[student]
    assert line.status == "unreadable" and reason in line.reasons and pd.isna(line.score)


@needs_bwrap
def test_pages_show_no_hidden_test_and_run_no_script(graded):
    _, out, _, _ = graded
    pages = sorted((out / "feedback").rglob("*.html"))
    assert len(pages) == len(ATTACKS) + 4
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "_secret_oracle = [6" not in text and "BEGIN HIDDEN" not in text and "half == 0.5" not in text
        assert "<script>steal" not in text
    assert "the hidden tests ran through" in (out / "feedback" / "ada" / UNIT / f"{UNIT}.html").read_text(encoding="utf-8")
    assert "a hidden test failed" in (out / "feedback" / "liar" / UNIT / f"{UNIT}.html").read_text(encoding="utf-8")
