"""Builds the site: its sources beside the folder that is asked for, its pages in it."""

import shutil
from pathlib import Path

from course_lib.book.staging import Stage
from course_lib.files import ROOT

SITE = ROOT / "build" / "book"
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2/*", "input/tex/extensions/*")  # what pages ask for, a tenth of it
ELSEWHERE = "https://cdn.jsdelivr.net/npm/"  # where MathJax would look for what old browsers lack


def command(out: Path = SITE) -> int:
    """Builds the site in `out`; gives Sphinx's exit status, which is not 0 after a warning."""
    from sphinx.cmd.build import build_main

    source, settings = out.with_name(f"{out.name}-source"), ["-c", str(ROOT / "book"), "-d", f"{out}-cache"]
    stage = Stage(source)
    stage.fill()
    for link in stage.left_out:
        print(f"not linked, since it is not there: {link}")
    shutil.rmtree(out / "_static", ignore_errors=True)  # Sphinx writes no file that was changed since
    status = build_main(["-W", "--keep-going", "-q", *settings, str(source), str(out)])
    tidy(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out / 'index.html'}: {len(list(out.rglob('*.html')))} pages, {size / 1e6:.1f} MB")
    return status


def tidy(out: Path) -> None:
    """Removes what no page asks for, and offers the notebooks as they are committed."""
    mathjax = out / "_static" / "mathjax"
    used = {path for pattern in MATHJAX for path in mathjax.glob(pattern)}
    for path in [path for path in mathjax.rglob("*") if path.is_file() and path not in used]:
        path.unlink()
    for path in [*out.glob("_static/**/*.map"), *out.glob("_static/locales/**/*.*")]:
        path.unlink()
    script = mathjax / MATHJAX[0]
    script.write_text(script.read_text(encoding="utf-8").replace(ELSEWHERE, ""), encoding="utf-8")
    for path in (out / "_sources" / "notebooks").glob("*.ipynb"):
        shutil.copy(ROOT / "notebooks" / path.name, path)
