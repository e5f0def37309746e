"""Graded notebooks made safe to look at: nothing that a student wrote runs, loads or leads anywhere on the pages made of them.

Outputs and text are not searched for what is known to be bad. They are made anew from the few kinds that are known to be
harmless: text, HTML of a few elements without attributes, and pictures that really are PNG or JPEG. nbconvert's own
SanitizeHTML takes a minute for 100 KB of elements nested on purpose; this takes time in proportion to the text.
"""

import base64
import html
import io
import re
import warnings
from collections.abc import Set

import nbformat
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

LONGEST = 20_000  # characters of a cell that are shown; model answers have less than 2,000
LONGEST_LINE = 1_000  # characters of a line of code: what colours code takes seconds for longer ones, if they are chosen so
MOST_CODE = 200_000  # characters of a notebook's code that are shown, beside the instructor's own
LONGEST_MARKDOWN = 10_000  # characters of a cell that are formatted: the parser takes seconds for more, if they are chosen so
MOST_MARKDOWN = 100_000  # characters of a notebook that are formatted, beside the instructor's own
LONGEST_OUTPUT = 100_000  # characters of an output
MOST_OUTPUT = 10_000_000  # characters of all outputs of a notebook
LARGEST_IMAGE = 5_000_000  # bytes; figures of this course have up to 100 KB
MOST_PIXELS = 30_000_000  # a file of 100 KB can spread out to gigabytes in a browser
DEEPEST = 50  # elements in each other
TAGS = re.compile(
    "b|big|blockquote|br|caption|cite|code|dd|del|div|dl|dt|em|h[1-6]|hr|i|ins|kbd|li|mark|ol|p|pre|q|s|samp|small|span|strong"
    "|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul"
)
NO_TEXT = re.compile("style|script|title|template|textarea|noscript|iframe|object|svg|math|select")  # are left out whole
TOKEN = re.compile(r"<!--|<[!?][^<>]*+>|<(/?)([a-zA-Z][a-zA-Z0-9]*+)([^<>]*+)>")
SPAN = re.compile(r"\b(colspan|rowspan)=[\"']?(\d{1,3})\b", re.IGNORECASE)
POLICY = (  # for a browser, should anything get past what is done here
    "<meta http-equiv=\"Content-Security-Policy\" content=\"img-src data:; form-action 'none'; base-uri 'none'; "
    "connect-src 'none'; frame-src 'none'; object-src 'none'; media-src 'none'\">"
)


class _Renderer(IPythonRenderer):
    """Markdown without links and pictures: their addresses stand there as text."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return text if html.unescape(text) in (url, url.removeprefix("mailto:")) else f"{text} ({html.escape(url)})"

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f"[picture: {text or html.escape(_cut(url, 200))}]"


def safe(notebook: NotebookNode, own: Set[str] = frozenset()) -> NotebookNode:
    """Return a copy of a graded notebook that is safe to show: without scripts, forms, links, and pictures from elsewhere.

    Args:
        notebook: as it was run, in format 4.
        own: sources of cells that are the instructor's, and are left as they are.
    """
    page = _Page(own)
    known = {name: notebook.metadata[name] for name in ("kernelspec", "language_info") if name in notebook.metadata}
    return nbformat.v4.new_notebook(cells=[page.cell(cell) for cell in notebook.cells], metadata=known)


class _Page:
    """What is made of one notebook's cells, and how much of it may still be shown."""

    def __init__(self, own: Set[str]):
        self.own, self.code, self.formatted, self.shown = own, 0, 0, 0

    def cell(self, cell: NotebookNode) -> NotebookNode:
        """A cell made anew; of its metadata what nbgrader needs."""
        metadata = dict(nbgrader=cell.metadata.nbgrader) if "nbgrader" in cell.metadata else {}
        if cell.cell_type == "code":
            count = cell.get("execution_count")
            made = nbformat.v4.new_code_cell(self.source(cell.source), metadata=metadata)
            made.execution_count = count if isinstance(count, int) else None
            made.outputs = [self.output(output) for output in cell.outputs]
        elif cell.source in self.own and cell.cell_type == "markdown":
            made = nbformat.v4.new_markdown_cell(cell.source, metadata=metadata)
        else:
            shown = self.markdown(cell.source) if cell.cell_type == "markdown" else _plain(cell.source)
            made = nbformat.v4.new_markdown_cell(shown, metadata=metadata)
        made.id = cell.id
        return made

    def source(self, source: str) -> str:
        """Code that is quickly coloured."""
        if source in self.own:
            return source
        made = _cut("\n".join(_cut(line, LONGEST_LINE) for line in _text(source).split("\n")), LONGEST)
        self.code += len(made)
        return made if self.code <= MOST_CODE else "# not shown: the notebook's code is too long"

    def output(self, output: NotebookNode) -> NotebookNode:
        """An output made anew."""
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            made = nbformat.v4.new_output("stream", name=name, text=_cut(_text(output.get("text")), LONGEST_OUTPUT))
        elif kind == "error":
            name, value = (_cut(_text(output.get(part)), 1_000) for part in ("ename", "evalue"))
            lines = output.get("traceback")
            lines = _cut("\n".join(map(_text, lines if isinstance(lines, list) else [])), LONGEST_OUTPUT).split("\n")
            made = nbformat.v4.new_output("error", ename=name, evalue=value, traceback=lines)
        else:
            given = output.get("data")
            given = given if isinstance(given, dict) else {}
            kinds = ", ".join(_cut(_text(kind), 50) for kind in list(given)[:5])
            result = "execute_result" if kind == "execute_result" else "display_data"  # results can be partial credit
            data = self.data(given) or {"text/plain": f"(not shown: {kinds})"}
            alt = {"image/png": {"alt": _cut(data.get("text/plain", ""), 500)}} if "image/png" in data else {}
            made = nbformat.v4.new_output(result, data=data, metadata=alt)
        size = len(str(made))
        if self.shown + size > MOST_OUTPUT:
            return nbformat.v4.new_output("stream", text="(not shown: the notebook's outputs are too long)")
        self.shown += size
        return made

    def data(self, given: dict) -> dict[str, str]:
        """Of the forms in which an output comes, those that can be shown."""
        data = {kind: picture for kind in ("image/png", "image/jpeg") if (picture := _picture(given.get(kind), kind))}
        if plain := _text(given.get("text/plain")):
            data["text/plain"] = _cut(plain, LONGEST_OUTPUT)
        for kind, make in (("text/html", clean), ("text/markdown", self.markdown), ("text/latex", html.escape)):
            text = _text(given.get(kind))
            if text and len(text) <= LONGEST_OUTPUT and "text/html" not in data:
                data["text/html"] = make(text)
        if "image/png" in data and "<img" in _text(given.get("text/html")):
            data.pop("text/html", None)  # a figure of the course, whose HTML has lost the picture by now; the PNG is shown
        return data

    def markdown(self, source: str) -> str:
        """Markdown as one block of harmless HTML, which is Markdown, too; what is very long, as it was typed."""
        source = _text(source)
        self.formatted += len(source)
        if len(source) > LONGEST_MARKDOWN or self.formatted > MOST_MARKDOWN:
            return _plain(source)
        try:
            rendered = MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(source)
        except Exception:  # the parser's limits are its own; what it cannot do is shown as it was typed
            return _plain(source)
        return f"<div>{_one_line(clean(rendered))}</div>"


def clean(text: str) -> str:
    """Return HTML with nothing left but text and some of its elements, closed in order and without attributes."""
    made, opened, start = [], [], 0
    while token := TOKEN.search(text, start):
        made.append(_escaped(text[start : token.start()]))
        start, name = token.end(), (token[2] or "").lower()
        if token[0] == "<!--":
            end = text.find("-->", start)
            start = end + 3 if end >= 0 else len(text)
        elif NO_TEXT.fullmatch(name) and not token[1]:
            end = re.compile(f"</{name}[^<>]*+>", re.IGNORECASE).search(text, start)
            start = end.end() if end else len(text)
        elif not TAGS.fullmatch(name):
            continue
        elif name in ("br", "hr"):
            made.append(f"<{name}>")
        elif not token[1] and len(opened) < DEEPEST:
            opened.append(name)
            spans = SPAN.findall(token[3])[:2] if name in ("td", "th") else []
            made.append(" ".join([f"<{name}", *(f'{kind.lower()}="{int(number)}"' for kind, number in spans)]) + ">")
        elif token[1] and name in opened:
            while (last := opened.pop()) != name:
                made.append(f"</{last}>")
            made.append(f"</{name}>")
    return "".join([*made, _escaped(text[start:]), *(f"</{name}>" for name in reversed(opened))])


def _escaped(text: str) -> str:
    return html.escape(html.unescape(text), quote=False)


def _plain(source: str) -> str:
    return f"<div><pre>{_one_line(html.escape(_cut(_text(source), LONGEST)))}</pre></div>"


def _one_line(text: str) -> str:
    """HTML without line ends, so that a Markdown parser takes it for one block."""
    return text.replace("\r", "").replace("\n", "&#10;")


def _picture(text: object, kind: str) -> str | None:
    """A picture as base64, if it is one of that kind and of a size that a browser can show; else None."""
    try:
        content = base64.b64decode(_text(text), validate=False)
        if len(content) > LARGEST_IMAGE:
            return None
        with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(content), formats=[kind[6:]]) as image:
            return base64.b64encode(content).decode() if image.width * image.height <= MOST_PIXELS else None
    except Exception:  # no base64, no picture, or one that its own library warns of
        return None


def _text(value: object) -> str:
    """Text, also from a list of lines, that can be written into a file; of anything else nothing."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}\n[{len(text) - longest:,} more characters are not shown]"
