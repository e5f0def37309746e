"""README's tables and picture, taken from the recorded rows and the executed notebooks: `python -m course_lib results`."""

import base64
import importlib
import re
from pathlib import Path

import nbformat
import pandas as pd

from course_lib.experiments import runner
from course_lib.files import replacing

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- results: (?P<paper>[\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)
PICTURE = "front-page"  # the tag of the cell whose figure README shows
IMAGES = Path("notebooks/images")


def command(root: Path = ROOT) -> int:
    """Brings README.md and its pictures in step; prints what changed."""
    for path, content in wanted(root).items():
        if path.is_file() and path.read_bytes() == content:
            continue
        with replacing(path) as scratch:
            scratch.write_bytes(content)
        print(f"{path.relative_to(root)} brought in step")
    return 0


def wanted(root: Path = ROOT) -> dict[Path, bytes]:
    """File -> what it should hold, for README.md and each picture."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    files = {root / "README.md": BLOCK.sub(_filled, readme).encode()}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if PICTURE in cell.metadata.get("tags", []):
                pictures = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
                files[root / IMAGES / f"{path.stem}.png"] = base64.b64decode(pictures[0])
    return files


def _filled(block: re.Match) -> str:
    rows = runner.recorded(block["paper"])
    module = importlib.import_module(f"course_lib.experiments.{block['paper'].replace('-', '_')}")
    return block[1] + markdown(module.paper_table(rows[rows.scale == "lesson"])) + block[3]


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, without its index."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
