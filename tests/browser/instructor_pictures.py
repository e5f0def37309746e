"""The pictures of the pages for instructors: `python -m tests.browser.instructor_pictures`, after the sample class was graded.

Two show real pages, nbgrader's form grader and a page for a student, as Chromium does; one is a drawing that follows the theme.
"""

import io
from pathlib import Path

from nbgrader.api import Gradebook
from PIL import Image

from course_lib.files import ROOT, replacing
from tests.browser.chromium import Visit, chromium
from tests.browser.test_grading_pages import TOKEN, form_grader

IMAGES = ROOT / "notebooks" / "images"
MARKS = ROOT / "build" / "sample" / "marks"
UNIT, STUDENT = "02_weight_pruning", "danosei_104_9104"
SIZE = {"width": 1000, "height": 420}
COLOURS = 64
STEPS = [
    ("make release", "student copies"),
    ("students", "answer"),
    ("make grade", "runs the tests"),
    ("form grader", "open questions"),
    ("make grade", "marks and pages"),
]
STYLE = """\
<style>
text { font: 15px sans-serif; fill: #24292f; text-anchor: middle } .command { font-weight: bold }
rect { fill: #eaf2fb; stroke: #0072b2 } path { stroke: #57606a; fill: none; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } rect { fill: #12283c } path { stroke: #9da7b3 } }
</style>"""


def flow() -> str:
    """An SVG of the way from student copies to marks."""
    width, gap, height = 140, 30, 64
    parts = []
    for number, (command, does) in enumerate(STEPS):
        left = 1 + number * (width + gap)
        middle = left + width / 2
        parts.append(f'<rect x="{left}" y="1" width="{width}" height="{height}" rx="8"/>')
        parts.append(f'<text class="command" x="{middle}" y="28">{command}</text><text x="{middle}" y="50">{does}</text>')
        if number:
            tip = left - 3
            parts.append(f'<path d="M{left - gap + 2} 33H{tip}m-6 -5l6 5l-6 5"/>')
    total = len(STEPS) * (width + gap) - gap + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + 2}">\n{STYLE}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def keep(name: str, png: bytes) -> None:
    """Writes a screenshot in few colours."""
    with replacing(IMAGES / name) as scratch, Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(COLOURS).save(scratch, "PNG", optimize=True)
    print(f"{name}: {(IMAGES / name).stat().st_size:,} bytes")


def shot(visit: Visit, address: str, selector: str) -> bytes:
    """A screenshot of a page, scrolled to an element."""
    page = visit.open(address)
    page.set_viewport_size(SIZE)
    page.locator(selector).last.evaluate("one => window.scrollTo(0, one.getBoundingClientRect().top + window.scrollY - 170)")
    return page.screenshot()


def command(marks: Path = MARKS) -> None:
    """Writes the three pictures into notebooks/images."""
    with replacing(IMAGES / "instructors_flow.svg") as scratch:
        scratch.write_text(flow(), encoding="utf-8")
    with Gradebook(f"sqlite:///{marks / 'gradebook.db'}") as book:
        submission = book.find_submission_notebook(UNIT, UNIT, STUDENT).id
    with form_grader(marks) as server, chromium() as browser:
        visit = Visit(browser)
        address = f"{server}/formgrader/submissions/{submission}/?token={TOKEN}"
        keep("instructors_form_grader.png", shot(visit, address, "input.score"))
        page = (marks / "feedback" / STUDENT / UNIT / f"{UNIT}.html").as_uri()
        keep("instructors_feedback.png", shot(visit, page, "#toc"))


if __name__ == "__main__":
    command()
