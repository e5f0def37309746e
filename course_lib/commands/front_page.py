"""The tables of README and of the results, README's picture, and the contents of the notebooks, taken from rows and notebooks.

`python -m course_lib results` brings them in step.
"""

import base64
import re
from pathlib import Path

import nbformat
import pandas as pd

from course_lib.experiments import runner
from course_lib.files import ROOT, replacing

# a paper and, unless it is 'lesson', a scale
BLOCK = re.compile(r"(<!-- results: (?P<paper>[\w-]+)(?: at (?P<scale>\w+) scale)? -->\n).*?(<!-- /results -->)", re.DOTALL)
PICTURE = "front-page"  # the tag of the cell whose figure README shows
IMAGES = Path("notebooks/images")
SVG = re.compile(r'src="data:image/svg\+xml;base64,([\w+/=]+)"')
RESULTS = Path("data/results/README.md")  # a table for each paper
CONTENTS = re.compile(r"(<!-- contents -->\n).*?(<!-- /contents -->)", re.DOTALL)
CARD = {  # what the contents tell, from a notebook's first cell
    "notebook": re.compile(r"^# (.+)$", re.MULTILINE),
    "paper": re.compile(r"^\*\*Papers?\.\*\* (.+)$", re.MULTILINE),
    "you will": re.compile(r"^\*\*You will\*\* (.+)$", re.MULTILINE),
    "time": re.compile(r"^\| Time \| (?:about )?(.+?) \|$", re.MULTILINE),
}


def command(root: Path = ROOT) -> int:
    """Brings the pages of `wanted` in step; prints what changed."""
    for path, content in wanted(root).items():
        if path.is_file() and path.read_bytes() == content:
            continue
        with replacing(path) as scratch:
            scratch.write_bytes(content)
        print(f"{path.relative_to(root)} brought in step")
    return 0


def wanted(root: Path = ROOT) -> dict[Path, bytes]:
    """File -> what it should hold, for README.md, the page of results, each picture and the contents of the notebooks."""
    pages = [path for path in (root / "README.md", root / RESULTS) if path.is_file()]
    files = {path: BLOCK.sub(_filled, path.read_text(encoding="utf-8")).encode() for path in pages}
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    page = root / "notebooks" / "README.md"
    if page.is_file():
        table = markdown(pd.DataFrame([_card(path) for path in notebooks]))
        text = CONTENTS.sub(lambda block: block[1] + table + block[2], page.read_text(encoding="utf-8"))
        files[page] = text.encode()
    for path in notebooks:
        for cell in nbformat.read(path, as_version=4).cells:
            if PICTURE in cell.metadata.get("tags", []):
                pages = (output.get("data", {}).get("text/html", "") for output in cell.outputs)
                files[root / IMAGES / f"{path.stem}.svg"] = base64.b64decode(next(filter(None, map(SVG.search, pages)))[1])
    return files


def _filled(block: re.Match) -> str:
    if block["paper"] == "overview":
        return block[1] + markdown(_overview()) + block[4]
    return block[1] + markdown(runner.paper_table(block["paper"], block["scale"] or "lesson")) + block[4]


def _overview() -> pd.DataFrame:
    """The first line of each paper, at paper scale where one stands beside a published figure: that is of the paper's network."""
    large, small = runner.overview_table("paper"), runner.overview_table("lesson")
    large = large[~large.published.str.startswith("none")]
    lines = pd.concat([large, small]).drop_duplicates("paper")
    order = [f"{label}, {name.replace('-', ' ')}" for name, label in runner.PAPERS.items()]
    return lines.sort_values("paper", key=lambda papers: papers.map(order.index))


def _card(path: Path) -> dict[str, str]:
    """A notebook's row of the contents; a card that lacks one of them raises ValueError."""
    text, row = nbformat.read(path, as_version=4).cells[0].source, {}
    for column, pattern in CARD.items():
        if (found := pattern.search(text)) is None:
            raise ValueError(f"the first cell of {path.name} does not tell {column!r}: no match for {pattern.pattern}")
        row[column] = found[1]
    return row | {"notebook": f"[{row['notebook']}]({path.name})"}


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, without its index."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
