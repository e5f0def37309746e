"""JupyterLab, started by the Makefile's own command: its first page, its settings, and originals that nothing changes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_lib.desk import start_page, stills
from course_lib.files import ROOT
from tests.processes import kill, wait_until

pytestmark = pytest.mark.timeout(240)  # a server of its own, with a copy of the course


def lab_command() -> list[str]:
    """The arguments of JupyterLab that `make lab` passes, beside those that depend on the machine."""
    recipe = re.search(r"^lab:.*\n(?:\t.*\n)+", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    (line,) = re.findall(r"\$\(VENV_PYTHON\) -m jupyterlab (.*?)(?: \\)?\n", recipe)
    return [sys.executable, "-m", "jupyterlab", *line.split(), "--no-browser", "--allow-root"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a server on a copy of the course, and that copy."""
    place = tmp_path_factory.mktemp("the course")
    for name in ("course_lib", "notebooks"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | dict(PYTHONPATH=str(place), JUPYTER_CONFIG_DIR=str(place / "config"))
    environment |= dict(JUPYTER_RUNTIME_DIR=str(place / "runtime"), JUPYTER_DATA_DIR=str(place / "jupyter"))
    done = [sys.executable, "-m", "course_lib", "work", "02"]
    subprocess.run(done, cwd=place, env=environment, check=True, capture_output=True, timeout=120)
    options = ["--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=secret", "--LabApp.news_url="]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [*lab_command(), *options], cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        pattern = r"(http://127\.0\.0\.1:\d+)(/\S*)\?token"
        found = wait_until(lambda: re.search(pattern, (place / "log").read_text()), "an address", process)
        server = found[1], found[2], place
        wait_until(lambda: answers(server), "an answer", process)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        kill(process)


def answers(lab) -> bool:
    """Whether the server takes connections; it prints its address a moment before."""
    try:
        return bool(ask(lab, "/api/status"))
    except urllib.error.URLError:
        return False


def ask(lab, path: str, **request) -> bytes:
    asked = urllib.request.Request(f"{lab[0]}{path}", headers={"Authorization": "token secret"}, **request)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.read()


def test_the_printed_address_leads_to_the_start_page(lab):
    assert lab[1] == f"/lab/tree/work/{quote(start_page.NAME)}"
    page = ask(lab, lab[1]).decode()
    config = json.loads(re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert config["treePath"] == f"work/{start_page.NAME}"
    assert "@jupyter/nbgrader" in config["disabledExtensions"]
    content = json.loads(ask(lab, f"/api/contents/work/{quote(start_page.NAME)}"))["content"]
    assert "02_weight_pruning.ipynb" in content


def test_markdown_is_rendered_and_nothing_is_fetched_from_elsewhere(lab):
    def default(plugin: str, name: str):
        return json.loads(ask(lab, f"/lab/api/settings/{plugin}"))["schema"]["properties"][name]["default"]

    assert default("@jupyterlab/docmanager-extension:plugin", "defaultViewers") == {"markdown": "Markdown Preview"}
    assert default("@jupyterlab/apputils-extension:notification", "fetchNews") == "false"


def test_an_original_can_be_read_and_not_saved(lab):
    path, place = "notebooks/02_weight_pruning.ipynb", lab[2]
    before = (place / path).read_bytes()
    model = json.loads(ask(lab, f"/api/contents/{path}"))
    assert model["writable"] is False
    body = json.dumps(dict(type="notebook", content=model["content"])).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(lab, f"/api/contents/{path}", data=body, method="PUT")
    assert refused.value.code == 403 and "Your own copy" in refused.value.read().decode()
    assert (place / path).read_bytes() == before


def test_a_copy_can_be_saved_and_counts_as_opened(lab):
    path, place = "work/02_weight_pruning.ipynb", lab[2]
    model = json.loads(ask(lab, f"/api/contents/{path}"))
    assert model["writable"] is True and (place / "work/.course/opened/02_weight_pruning").exists()
    model["content"]["cells"][0]["source"] = "# Mine"
    ask(lab, f"/api/contents/{path}", data=json.dumps(dict(type="notebook", content=model["content"])).encode(), method="PUT")
    assert "# Mine" in (place / path).read_text()


def test_a_notebook_is_saved_and_opened_without_its_widgets(lab):
    path, place = "work/played.ipynb", lab[2]
    data = {stills.WIDGET: {"model_id": "1"}, "text/html": "<img alt='bars'>", "text/plain": "bars"}
    cell = new_code_cell("panel", outputs=[new_output("display_data", data=data)])
    played = json.dumps(new_notebook(cells=[cell], metadata={"widgets": {}}))
    ask(lab, f"/api/contents/{path}", data=f'{{"type": "notebook", "content": {played}}}'.encode(), method="PUT")
    saved = (place / path).read_text()
    assert "bars" in saved and stills.WIDGET not in saved and "widgets" not in saved
    (place / path).write_text(played)  # as another program may save it
    opened = json.loads(ask(lab, f"/api/contents/{path}"))["content"]
    assert "bars" in json.dumps(opened) and stills.WIDGET not in json.dumps(opened)
