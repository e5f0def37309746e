"""JupyterLab's window as a reader uses it: by menus, keys and labels."""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from course_lib.files import ROOT
from tests.browser.chromium import Visit
from tests.lab_server import TOKEN, Server

BUILD = ROOT / "build" / "browser"
SECONDS = 400  # for anything, on a machine that is busy
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
AT_TOP = """
cell => {
    const box = cell.closest('.jp-WindowedPanel-outer');
    const there = Math.abs(cell.getBoundingClientRect().top - box.getBoundingClientRect().top) < 30;
    cell.calm = there ? (cell.calm ?? 0) + 1 : 0;
    if (!there) cell.scrollIntoView({block: 'start'});
    return cell.calm > 30;
}
"""
ALL_DONE = """
box => ![...document.querySelector(box).querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('*'))
"""
CELLS = """
box => [...box.querySelectorAll('.jp-CodeCell')].map(cell => ({
    number: parseInt(cell.querySelector('.jp-InputPrompt').textContent.slice(1)) || null,
    kinds: [...cell.querySelectorAll('.jp-OutputArea-output')].map(output => output.dataset.mimeType),
    text: [...cell.querySelectorAll('.jp-OutputArea-output')].map(output => output.textContent).join('\\n'),
}))
"""
OTHER = "([panel, selector, property, before]) => ![before, undefined].includes(panel.querySelector(selector)?.[property])"
PICTURE, READOUT = "img[alt^='Panel at']", ".course-readout"
BROKEN = re.compile(r"error (displaying|loading|creating|setting)|model not found|disconnected|\d+%\|", re.IGNORECASE)


class Lab(Visit):
    """A window of a browser on a server."""

    opened: list["Lab"] = []

    def __init__(self, browser, server: Server):
        super().__init__(browser)
        self.server = server
        self.page.set_viewport_size({"width": 1280, "height": 800})
        self.page.set_default_timeout(SECONDS * 1000)
        self.context.tracing.start(screenshots=True, snapshots=True)
        self.opened.append(self)

    def start(self) -> None:
        """Opens the address that the server prints."""
        self.page.goto(f"{self.server.address}{self.server.first_page}?token={TOKEN}")
        self.page.locator(".jp-MarkdownViewer h1").wait_for()

    def open(self, path: str) -> "Notebook":
        """Opens a notebook by its address, and nothing else that was open before."""
        workspace = f"{self.server.address}/lab/workspaces/{Path(path).stem}"
        self.page.goto(f"{workspace}/tree/{quote(path)}?token={TOKEN}")
        return self.notebook(path)

    def follow(self, text: str) -> "Notebook":
        """Follows a link of the start page to a notebook."""
        link = self.page.locator(".jp-MarkdownViewer").get_by_role("link", name=text, exact=True).first
        path = urlsplit(link.get_attribute("href")).path.removeprefix("/files/")
        link.click()
        return self.notebook(path)

    def notebook(self, path: str) -> "Notebook":
        """The notebook in front, once its kernel has answered; what comes last is a button for the debugger."""
        self.page.locator(".lm-TabBar-tab.jp-mod-current", has_text=Path(path).name).wait_for()
        found = Notebook(self, path)
        found.box.locator(".jp-DebuggerBugButton").wait_for()
        found.wait_idle()
        return found

    def menu(self, menu: str, item: str) -> None:
        """Chooses an item of the menu bar by its first words."""
        self.page.get_by_role("menubar").get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menu").get_by_role("menuitem", name=item).first.click()

    def keep(self) -> None:
        """Stores what is on the screen, what was done, and what the browser and the server said, for the test that has failed."""
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2]
        folder = BUILD / "failed" / re.sub(r"[^\w-]+", " ", test).strip()
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Exception):  # the browser may be gone
            self.page.screenshot(path=folder / "screen.png", timeout=10_000)
            self.context.tracing.stop(path=folder / "trace.zip")
        (folder / "browser.txt").write_text("\n".join([*self.errors, *self.far]), encoding="utf-8")
        (folder / "server.txt").write_bytes((self.server.place / "log").read_bytes())

    def close(self) -> None:
        """Closes the window and ends all kernels."""
        self.opened.remove(self)
        self.context.close()
        for kernel in json.loads(self.server.ask("/api/kernels")):
            self.server.ask(f"/api/kernels/{kernel['id']}", method="DELETE")


@contextlib.contextmanager
def window(browser, server: Server) -> Iterator[Lab]:
    """A window, closed in the end; where something fails in the block, what there is to see is kept."""
    lab = Lab(browser, server)
    try:
        yield lab
    except BaseException:
        lab.keep()
        raise
    finally:
        lab.close()


class Notebook:
    """The notebook in front."""

    def __init__(self, lab: Lab, path: str):
        self.lab, self.page, self.file = lab, lab.page, lab.server.place / path
        self.box = self.page.locator(NOTEBOOK)
        self.panel = self.box.locator(".course-panel")

    def wait_idle(self) -> None:
        self.box.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()

    def run_all(self) -> None:
        """Runs all cells, until one of them fails."""
        self.lab.menu("Run", "Run All Cells")
        self.box.locator(".jp-InputPrompt", has_text="*").first.wait_for()
        self._wait_done()

    def _wait_done(self) -> None:
        self.page.wait_for_function(ALL_DONE, arg=NOTEBOOK)
        self.wait_idle()

    def names(self, kind: str = "") -> list[str]:
        """The names of the cells, or of those of a kind, as the file has them."""
        cells = json.loads(self.file.read_text(encoding="utf-8"))["cells"]
        return [cell["id"] for cell in cells if kind in cell["cell_type"]]

    def cell(self, name: str):
        """The cell of this name."""
        return self.box.locator(".jp-Cell").nth(self.names().index(name))

    def show(self, name: str) -> None:
        """Scrolls to a cell until it stays there: the browser only guesses the heights of cells that it has not drawn."""
        self.page.wait_for_function(AT_TOP, arg=self.cell(name).element_handle())

    def write(self, name: str, source: str) -> None:
        """Replaces what is written in a cell, and runs it."""
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(source)
        self._run_current()

    def run(self, name: str) -> str:
        """Runs a cell, and returns what it shows."""
        self.cell(name).locator(".cm-content").click()
        self._run_current()
        return self.cell(name).locator(".jp-OutputArea").inner_text()

    def _run_current(self) -> None:
        prompt = self.box.locator(".jp-Cell.jp-mod-active .jp-InputPrompt")
        handle, before = prompt.element_handle(), prompt.text_content()
        self.page.keyboard.press("ControlOrMeta+Enter")
        self.page.wait_for_function("([prompt, before]) => prompt.textContent !== before", arg=[handle, before])
        self._wait_done()

    def cells(self) -> list[dict]:
        """The code cells: the number in front, kinds of outputs, their text."""
        return self.box.evaluate(CELLS)

    def alts(self) -> list[str | None]:
        """The alternative texts of all pictures."""
        return self.box.locator("img").evaluate_all("all => all.map(one => one.getAttribute('alt'))")

    def save(self) -> None:
        """Saves by the menu, and waits until the tab says that it is saved."""
        self.lab.menu("File", "Save Notebook")
        self.page.locator(".lm-TabBar-tab.jp-mod-current:not(.jp-mod-dirty)").wait_for()

    def moves(self):
        """Moves each control of the panel, and yields its label and the seconds until the picture has followed.

        One step may be too small to change what the readout tells; after five it tells something else.
        """
        readout, picture, panel = self.panel.locator(READOUT), self.panel.locator(PICTURE), self.panel.element_handle()
        for control in self.panel.locator(".widget-slider, .widget-dropdown").all():
            if control.locator("[disabled]").count():
                continue
            said, shown, start = readout.inner_text(), picture.get_attribute("alt"), time.perf_counter()
            step = _step(control)
            step()
            self.page.wait_for_function(OTHER, arg=[panel, PICTURE, "alt", shown])
            yield control.locator(".widget-label").inner_text(), time.perf_counter() - start
            for _ in range(4 * control.locator(".noUi-handle").count()):
                step()
            self.page.wait_for_function(OTHER, arg=[panel, READOUT, "innerText", said])


def _step(control) -> Callable[[], None]:
    """What moves a control by keyboard: the next choice, or a step to the right, or to the left from the right end."""
    if (select := control.locator("select")).count():
        count, chosen = select.locator("option").count(), select.evaluate("one => one.selectedIndex")
        return lambda: select.select_option(index=(chosen + 1) % count)
    handle = control.locator(".noUi-handle")
    at_end = float(handle.get_attribute("aria-valuenow")) >= float(handle.get_attribute("aria-valuemax"))
    return lambda: handle.press("ArrowLeft" if at_end else "ArrowRight")
