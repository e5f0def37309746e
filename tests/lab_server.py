"""JupyterLab as `make lab` starts it, on a copy of the course, at smoke scale and for a reader without settings."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from course_lib.files import ROOT
from tests.processes import wait_until

TOKEN = "secret"
OPTIONS = ["--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={TOKEN}", "--no-browser", "--allow-root"]
ADDRESS = re.compile(r"(http://127\.0\.0\.1:\d+)(/\S*)\?token")


class Server(NamedTuple):
    """A server that answers."""

    address: str  # without a path
    first_page: str  # the path that it prints
    place: Path  # of the copy of the course

    def ask(self, path: str, **request) -> bytes:
        asked = urllib.request.Request(f"{self.address}{path}", headers={"Authorization": f"token {TOKEN}"}, **request)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    def answers(self) -> bool:
        """Whether it takes connections; it prints its address a moment before."""
        try:
            return bool(self.ask("/api/status"))
        except urllib.error.URLError:
            return False


def copy_course(place: Path) -> Path:
    """Copies what `make lab` needs."""
    for name in ("course_lib", "notebooks", "data/challenge", "data/checkpoints", "data/results"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return place


@contextlib.contextmanager
def lab_server(place: Path, *notebooks: str) -> Iterator[Server]:
    """A server on a copy of the course, after the reader's copies were brought up to date: of all notebooks, or of those named.

    Its log is `log` in there.
    """
    work = [sys.executable, "-m", "course_lib", "work", *notebooks]
    subprocess.run(work, cwd=place, env=_environment(place), check=True, capture_output=True, timeout=120)
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [*_command(), *OPTIONS], cwd=place, env=_environment(place), stdout=log, stderr=log, start_new_session=True
        )
    try:
        found = wait_until(lambda: ADDRESS.search((place / "log").read_text()), "an address", process)
        server = Server(found[1], found[2], place)
        wait_until(server.answers, "an answer", process)
        yield server
    finally:
        _end(process)


def _command() -> list[str]:
    """The arguments of JupyterLab that `make lab` passes, beside those that depend on the machine."""
    recipe = re.search(r"^lab:.*\n(?:\t.*\n)+", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    (line,) = re.findall(r"\$\(VENV_PYTHON\) -m jupyterlab (.*?)(?: \\)?\n", recipe)
    return [sys.executable, "-m", "jupyterlab", *line.split()]


def _environment(place: Path) -> dict[str, str]:
    """That of a reader who has no files of their own."""
    private = {f"JUPYTER_{kind}_DIR": str(place / "home" / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    (place / "home").mkdir(exist_ok=True)
    return os.environ | private | dict(HOME=str(place / "home"), PYTHONPATH=str(place))


def _end(process: subprocess.Popen) -> None:
    """Lets the server end its kernels; kills what is left of them, which are in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself
        server = psutil.Process(process.pid)
        family = [server, *server.children(recursive=True)]
        server.terminate()
        for left in psutil.wait_procs(family, timeout=20)[1]:
            left.kill()
    process.wait()
