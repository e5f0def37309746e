"""Figures in a real browser: their text arrives, a phone shows it large enough, and the ink follows the theme."""

import io
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from course_lib.commands import execute
from course_lib.notebook import pictures, plots
from tests.browser.chromium import Visit
from tests.notebook.test_colours import DARK, WHITE

ALT = 'Two bars, "a" twice as long as <b>.'


@pytest.fixture(scope="module")
def bundle() -> dict[str, str]:
    plots.use_style()
    return pictures.bundle(plots.bars({"a": 2.0, "b": 1.0}, title="Two bars", ylabel="length (m)"), ALT)


def test_a_page_has_the_text_and_shows_it_large_enough_on_a_phone(browser, bundle, tmp_path: Path):
    output = new_output("display_data", data=bundle, metadata=pictures.metadata(ALT))
    page = tmp_path / "page.html"
    page.write_text(execute._page(new_notebook(cells=[new_code_cell("figure(fig)", outputs=[output])])), encoding="utf-8")
    visit = Visit(browser)
    visit.page.set_viewport_size({"width": 390, "height": 844})
    shown = visit.open(page.as_uri()).eval_on_selector_all("img", "all => all.map(one => [one.alt, one.clientWidth])")
    assert [alt for alt, _ in shown] == [ALT]
    assert plots.TEXT * shown[0][1] / (96 * plots.WIDTH) >= 8


@pytest.mark.parametrize(("scheme", "ground"), [("light", WHITE), ("dark", DARK)])
def test_the_ink_is_that_of_the_theme(browser, bundle, scheme, ground):
    page = Visit(browser).page
    page.set_content(f'<body style="color-scheme: {scheme}; background: {ground}">{bundle["text/html"]}</body>')
    page.wait_for_function("document.querySelector('img').complete")
    with Image.open(io.BytesIO(page.locator("img").screenshot())) as picture:
        colours = {colour[:3]: count for count, colour in picture.convert("RGB").getcolors(2**24)}
    inks = {ink: colours.get(tuple(bytes.fromhex(ink[1:])), 0) for ink in (plots.INK, plots.INK_ON_DARK)}
    right = plots.INK if scheme == "light" else plots.INK_ON_DARK
    assert max(inks, key=inks.get) == right and inks[right] > 100
    assert max(colours, key=colours.get) == tuple(bytes.fromhex(ground[1:]))  # no slab behind it
