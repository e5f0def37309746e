"""What of a submission is stored for pages, and what is written into a table; the pages themselves are in tests/browser."""

import csv
import io
import re
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.classroom import cells, grade, pages, text
from course_lib.classroom.gradebook import Course
from tests.classroom.mini import UNIT, mini, submission

PIECES = [
    *("<", ">", "/", "b", "td", "script", " colspan='2'", " onerror=x", "<p>", "</p>", "<table>", "</", "<!--", "-->", "&lt;"),
    *(
        "&#60;",
        "<script>",
        "</script>",
        "<style",
        '"',
        "'",
        "`",
        "\n",
        "\x00",
        "é",
        "<svg",
        "[a](b)",
        "![a](b)",
        "\ud800",
        "<div/>",
    ),
]
HTML = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join)


class Strict(HTMLParser):
    """Refuses all but the elements that are let through, closed in order."""

    def __init__(self):
        super().__init__()
        self.opened = []

    def handle_starttag(self, tag, attributes):
        assert pages.TAGS.fullmatch(tag)
        assert all(name in ("colspan", "rowspan") and value.isdigit() for name, value in attributes)
        self.opened += [] if tag in ("br", "hr") else [tag]

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def _refuse(self, text):
        raise AssertionError(text)

    handle_startendtag = handle_comment = handle_decl = handle_pi = unknown_decl = _refuse


@given(HTML)
def test_of_any_html_only_harmless_elements_are_left(given_text):
    for made in (pages.clean(given_text), pages._Page(frozenset()).markdown(given_text)):
        parser = Strict()
        parser.feed(made)
        parser.close()
        assert pages.clean(made) == made.replace("&#10;", "\n")
        assert parser.opened == [] and "<" not in re.sub(r"</?[a-z0-9]+( (colspan|rowspan)=\"\d+\")*>", "", made)


def test_text_and_tables_are_kept():
    table = "<style>p {}</style><table border=1><tr><th colspan='2'>a &lt; b</th></tr><tr><td>1<td>&eacute;</table>"
    kept = '<table><tr><th colspan="2">a &lt; b</th></tr><tr><td>1<td>é</td></td></tr></table>'
    assert pages.clean(table) == kept
    assert pages.clean("x < 3 & y<!-- c --> <a href='http://a'>b</a>") == "x &lt; 3 &amp; y b"


@pytest.mark.parametrize(
    "unit", ["<div>", "<b><p></b></p>", "<ul><li>", "<" + "a" * 999, "<!--", "<style>", "<td colspan=1 ", "&#"]
)
def test_the_longest_output_is_cleaned_whatever_its_nesting(unit):
    assert len(pages.clean((unit * pages.LONGEST_OUTPUT)[: pages.LONGEST_OUTPUT])) < 5 * pages.LONGEST_OUTPUT


def test_what_is_too_long_is_cut_and_says_so():
    long = new_output("stream", text="x" * 2_000_000)
    lines = [new_code_cell("a." * 9_000), new_code_cell("y = 1\n" * 9_000), new_markdown_cell("[" * 15_000)]
    more = [new_code_cell("y = 1\n" * 9_000) for _ in range(20)]
    made = pages.safe(new_notebook(cells=[new_code_cell("1", outputs=[long] * 200), *lines, *more]))
    assert len(nbformat.writes(made)) < 1.5 * pages.MOST_OUTPUT
    assert made.cells[0].outputs[0].text.endswith("[1,900,000 more characters are not shown]")
    assert made.cells[0].outputs[-1].text == "(not shown: the notebook's outputs are too long)"
    assert max(map(len, made.cells[1].source.split("\n"))) <= pages.LONGEST_LINE
    assert "more characters are not shown" in made.cells[2].source and made.cells[3].source.startswith("<div><pre>[[[")
    assert made.cells[-1].source == "# not shown: the notebook's code is too long"


def test_pictures_are_what_they_say(monkeypatch):
    assert pages._picture('"><script>', "image/png") is None and pages._picture({"a": 1}, "image/png") is None
    monkeypatch.setattr(pages, "MOST_PIXELS", 10)
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    assert pages._picture(png, "image/png") == png and pages._picture(png, "image/jpeg") is None
    monkeypatch.setattr(pages, "MOST_PIXELS", 0)
    assert pages._picture(png, "image/png") is None


def test_a_figure_of_the_course_keeps_its_png_and_its_text():
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    html = '<img alt="Bars" src="data:image/svg+xml;base64,Kg=="><p>To play, run this.</p>'
    figure = new_output("display_data", data={"text/html": html, "image/png": png, "text/plain": 'Bars of "a" & <b>'})
    made = pages.safe(new_notebook(cells=[new_code_cell("1", outputs=[figure])])).cells[0].outputs[0]
    assert made.data == {"image/png": png, "text/plain": 'Bars of "a" & <b>'}
    assert made.metadata == {"image/png": {"alt": 'Bars of "a" & <b>'}}


def test_any_name_and_half_characters_go_through_nbgrader(tmp_path):
    course = Course(tmp_path / "out")
    course.assign(UNIT, mini())
    for student in ("Zoë O'Hara", "Lovelace, Ada (she) + 1", text.student_name("a?b*[c]\ud800<b>"), "李明"):
        merged, _ = cells.merge(mini(), submission())
        outputs = [
            new_output("error", ename="\ud800", evalue="\ud800", traceback=["\ud800"]),
            new_output("stream", text="\ud800"),
        ]
        outputs.append(new_output("display_data", data={"text/html": "\ud800"}))
        outputs += [  # a kernel can send what it likes
            NotebookNode(output_type="stream", name=5, text=5),
            NotebookNode(output_type="error", ename=None, evalue=[], traceback="x"),
            NotebookNode(output_type="display_data", data=["x"], metadata=None),
            NotebookNode(output_type="execute_result", data={"text/html": {}, "image/png": 5}, execution_count="x"),
            NotebookNode(output_type="update_display_data"),
            NotebookNode(),
        ]
        merged.cells.append(new_code_cell("1", id="last"))
        merged.cells[-1].outputs = outputs
        course.save(UNIT, student, merged, scored=True)
        assert "Content-Security-Policy" in course.feedback(UNIT, student).read_text(encoding="utf-8")
        assert course.marks(UNIT, student).best == 20


REASONS = st.lists(
    st.sampled_from(["=", "+1", "-", "@", "\t", "\r", "\n", ";", ",", '"', "'", " ", "＝", "=cmd|' /C calc'!A0", "a"]), max_size=8
)


@given(REASONS.map("".join) | st.text(st.characters(), max_size=30))
def test_no_cell_of_the_table_is_a_formula(reason):
    row = grade._line("ada", UNIT, "crashed", 1.5, 20.0, 0.0, [reason])
    stream = io.StringIO()
    grade._spreadsheet(pd.DataFrame([row])).to_csv(stream, index=False)
    stream.getvalue().encode()
    ((_, line),) = enumerate(csv.DictReader(io.StringIO(stream.getvalue())))
    assert line["score"] == "1.5" and line["max_score"] == "20.0"
    for cell in (*line.values(), *line["reasons"].split(";")):  # where a semicolon separates, too
        assert not re.match(r"\s*[=+\-@＝＋－＠]", cell) and not set(cell) & set("\t\r\n")
