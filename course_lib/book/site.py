"""Builds the site: its sources beside the folder that is asked for, its pages in it."""

import base64
import hashlib
import re
import shutil
from functools import partial
from pathlib import Path

import nbformat

from course_lib.book.staging import Stage
from course_lib.files import ROOT

SITE = ROOT / "build" / "book"
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2/*", "input/tex/extensions/*")  # what pages ask for, a tenth of it
# The theme's button beside a package has no name, which a screen reader would need
NAMELESS = ('<summary><span class="toctree-toggle"', '<summary aria-label="Modules of the package"><span class="toctree-toggle"')
FIGURE = re.compile(r'src="data:image/svg\+xml;base64,([\w+/=]+)"')
ELSEWHERE = "https://cdn.jsdelivr.net/npm/"  # where MathJax would look for what old browsers lack


def command(out: Path = SITE) -> int:
    """Builds the site in `out`; gives Sphinx's exit status, which is not 0 after a warning."""
    from sphinx.cmd.build import build_main

    source, settings = out.with_name(f"{out.name}-source"), ["-c", str(ROOT / "book"), "-d", f"{out}-cache"]
    stage = Stage(source)
    stage.fill()
    for link in stage.left_out:
        print(f"not linked, since it is not there: {link}")
    shutil.rmtree(out, ignore_errors=True)  # pages of a former time; what Sphinx has read is kept beside it
    status = build_main(["-W", "--keep-going", "-q", *settings, str(source), str(out)])
    tidy(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out / 'index.html'}: {len(list(out.rglob('*.html')))} pages, {size / 1e6:.1f} MB")
    return status


def tidy(out: Path) -> None:
    """Removes what no page asks for, stores the notebooks' figures in files, and offers the notebooks without outputs."""
    mathjax = out / "_static" / "mathjax"
    used = {path for pattern in MATHJAX for path in mathjax.glob(pattern)}
    unused = [path for path in mathjax.rglob("*") if path.is_file() and path not in used]
    for path in [*unused, *out.glob("_static/**/*.map"), *out.glob("_static/locales/**/*.*")]:
        path.unlink()
    script = mathjax / MATHJAX[0]
    script.write_text(script.read_text(encoding="utf-8").replace(ELSEWHERE, ""), encoding="utf-8")
    (out / "_images").mkdir(exist_ok=True)
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8").replace(*NAMELESS)
        path.write_text(FIGURE.sub(partial(_stored, out / "_images"), page), encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, out / "_sources" / "notebooks" / path.name)


def _stored(folder: Path, figure: re.Match) -> str:
    """The address of a figure that stood in its page, after storing it."""
    drawn = base64.b64decode(figure[1])
    path = folder / f"{hashlib.sha256(drawn).hexdigest()[:16]}.svg"
    path.write_bytes(drawn)
    return f'src="../{folder.name}/{path.name}"'
