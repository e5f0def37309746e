"""JupyterLab, started by the Makefile's own command: its first page, its settings, and originals that nothing changes."""

import json
import platform
import re
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_lib.desk import start_page, stills
from tests.lab_server import copy_course, lab_server


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with lab_server(copy_course(tmp_path_factory.mktemp("the course")), "02") as server:
        yield server


def test_the_printed_address_leads_to_the_start_page(lab):
    assert lab.first_page == f"/lab/tree/work/{quote(start_page.NAME)}"
    page = lab.ask(lab.first_page).decode()
    config = json.loads(re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert config["treePath"] == f"work/{start_page.NAME}"
    assert "@jupyter/nbgrader" in config["disabledExtensions"]
    content = json.loads(lab.ask(f"/api/contents/work/{quote(start_page.NAME)}"))["content"]
    assert "02_weight_pruning.ipynb" in content


def test_markdown_is_rendered_and_nothing_is_fetched_from_elsewhere(lab):
    def default(plugin: str, name: str):
        return json.loads(lab.ask(f"/lab/api/settings/{plugin}"))["schema"]["properties"][name]["default"]

    assert default("@jupyterlab/docmanager-extension:plugin", "defaultViewers") == {"markdown": "Markdown Preview"}
    assert default("@jupyterlab/apputils-extension:notification", "fetchNews") == "false"


def test_an_original_can_be_read_and_not_saved(lab):
    path, place = "notebooks/02_weight_pruning.ipynb", lab.place
    before = (place / path).read_bytes()
    model = json.loads(lab.ask(f"/api/contents/{path}"))
    assert model["writable"] is False
    body = json.dumps(dict(type="notebook", content=model["content"])).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.ask(f"/api/contents/{path}", data=body, method="PUT")
    assert refused.value.code == 403 and "Your own copy" in refused.value.read().decode()
    assert (place / path).read_bytes() == before


def test_a_notebook_names_the_interpreter_that_will_run_it(lab):
    """Else JupyterLab changes the notebook when the kernel has started, and asks whether to save that."""
    model = json.loads(lab.ask("/api/contents/work/02_weight_pruning.ipynb"))
    assert model["content"]["metadata"]["language_info"]["version"] == platform.python_version()


def test_a_copy_can_be_saved_and_counts_as_opened(lab):
    path, place = "work/02_weight_pruning.ipynb", lab.place
    model = json.loads(lab.ask(f"/api/contents/{path}"))
    assert model["writable"] is True and (place / "work/.course/opened/02_weight_pruning").exists()
    model["content"]["cells"][0]["source"] = "# Mine"
    lab.ask(f"/api/contents/{path}", data=json.dumps(dict(type="notebook", content=model["content"])).encode(), method="PUT")
    assert "# Mine" in (place / path).read_text()


def test_a_notebook_is_saved_and_opened_without_its_widgets(lab):
    path, place = "work/played.ipynb", lab.place
    data = {stills.WIDGET: {"model_id": "1"}, "text/html": "<img alt='bars'>", "text/plain": "bars"}
    cell = new_code_cell("panel", outputs=[new_output("display_data", data=data)])
    played = json.dumps(new_notebook(cells=[cell], metadata={"widgets": {}}))
    lab.ask(f"/api/contents/{path}", data=f'{{"type": "notebook", "content": {played}}}'.encode(), method="PUT")
    saved = (place / path).read_text()
    assert "bars" in saved and stills.WIDGET not in saved and "widgets" not in saved
    (place / path).write_text(played)  # as another program may save it
    opened = json.loads(lab.ask(f"/api/contents/{path}"))["content"]
    assert "bars" in json.dumps(opened) and stills.WIDGET not in json.dumps(opened)
