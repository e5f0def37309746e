"""How a figure reaches a reader: as wide as a phone allows, sharp, right in both themes, with a text that stands for it."""

import base64
import functools
import html
import io
import re
import textwrap

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from PIL import Image

from course_lib.notebook.plots import INK, INK_ON_DARK, TEXT, WIDTH

LARGEST = 200_000  # bytes of an SVG; above this, what is drawn inside the axes becomes pixels, and the text stays text
DPI = 200  # of these pixels
FALLBACK_DPI = 120  # of the PNG for viewers that show no HTML; SVG is what they lack
FALLBACK_COLOURS = 256  # fewer merge curves of like colours

# A browser gives a picture the theme of the place where it stands, which JupyterLab and Sphinx's themes tell it
THEME = (
    f'<style>@media (prefers-color-scheme: dark) {{[style*="fill: {INK}"] {{fill: {INK_ON_DARK} !important}} '
    f'[style*="stroke: {INK}"] {{stroke: {INK_ON_DARK} !important}}}}</style>'
)
FIXED = {  # text stays text, which is a third of the size of outlines; nothing depends on the day or on chance
    "svg.fonttype": "none", "svg.hashsalt": "course", "svg.id": None, "svg.image_inline": True,
}  # fmt: skip


def figure(fig: plt.Figure, alt: str) -> None:
    """Shows a figure with a text for those who cannot see it, and closes it.

    Args:
        fig: of any width: it is drawn `plots.WIDTH` inches wide, with no text below `plots.TEXT` points.
        alt: what the figure shows, for someone who cannot see it; no other figure of the notebook has the same.
    """
    display(bundle(fig, alt), metadata=metadata(alt), raw=True)
    plt.close(fig)


def bundle(fig: plt.Figure, alt: str) -> dict[str, str]:
    """Return a figure in every form that a viewer of notebooks may ask for.

    JupyterLab, nbconvert and Sphinx take the HTML, the only form in which all of them carry the alternative text, and which
    JupyterLab shows in a notebook that it does not trust yet. The PNG is for the others, among them the pages of grading.
    """
    return {"text/html": element(fig, alt), "image/png": _png(fig), "text/plain": alt}


def metadata(alt: str) -> dict:
    """Return what goes with `bundle`: the text again, for viewers that take the PNG and look for it there."""
    return {"image/png": {"alt": alt}}


def element(fig: plt.Figure, alt: str) -> str:
    """Return a figure as an `<img>` element with its picture inside; arguments and errors as for `image`."""
    return image(svg(fig), alt)


def image(drawn: str, alt: str) -> str:
    """Return an SVG as an `<img>` element.

    Raises:
        ValueError: there is no alternative text.
    """
    if not alt.strip():
        raise ValueError("a figure needs a text for those who cannot see it: figure(fig, 'Accuracy falls from 98 to 40 % …')")
    picture = base64.b64encode(drawn.encode()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{picture}">'


def svg(fig: plt.Figure) -> str:
    """Return a figure as SVG on a transparent ground, its text and axes in the ink of the reader's theme."""
    fit(fig)
    drawn = _drawn_as_svg(fig)
    if len(drawn) > LARGEST:
        for ax in fig.axes:
            for artist in (*ax.patches, *ax.collections, *ax.lines):
                artist.set_rasterized(True)
        drawn = _drawn_as_svg(fig)
    start = drawn.index(">", drawn.index("<svg")) + 1
    return _shortened(drawn[drawn.index("<svg") : start] + THEME + drawn[start:])


def _png(fig: plt.Figure) -> str:
    """A figure that fits, as a small PNG on a white ground, in base64."""
    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=FALLBACK_DPI, facecolor="white", metadata={"Software": None})
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(FALLBACK_COLOURS).save(small, format="png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def fit(fig: plt.Figure) -> None:
    """Gives a figure the width of all figures, raises text that is too small to read, and breaks lines that are too long."""
    fig.set_size_inches(WIDTH, fig.get_size_inches()[1])
    for ax in fig.axes:
        ax.tick_params(which="both", labelsize=TEXT)
    for text in fig.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), TEXT))
    if not isinstance(fig.get_layout_engine(), PlaceHolderLayoutEngine):
        fig.draw_without_rendering()  # now the axes have their places
    rooms = _rooms(fig)
    for text in fig.findobj(Text):
        if text.get_text() and (room := rooms.get(text.get_text())):
            text.set_text(_broken(text.get_text(), text.get_fontsize(), room))


def _rooms(fig: plt.Figure) -> dict[str, float]:
    """Title or name of an axis -> the inches that it may take."""
    rooms = {fig.get_suptitle(): 0.98 * WIDTH}
    edges = sorted(ax.get_position().x0 for ax in fig.axes)
    for ax in fig.axes:
        place = ax.get_position()
        room = WIDTH * (min([edge - 0.03 for edge in edges if edge > place.x0 + 0.01], default=0.99) - place.x0)
        rooms |= {ax.get_title(side): room for side in ("left", "center", "right")}
        rooms |= {ax.get_xlabel(): WIDTH * place.width, ax.get_ylabel(): fig.get_size_inches()[1] * place.height}
    return rooms


def _broken(text: str, points: float, room: float) -> str:
    """A title with line breaks where it is wider than `room` inches; those that it has stay."""
    room *= 0.96  # fonts of other systems are a little wider
    lines = []
    for line in text.split("\n"):
        columns = len(line)
        pieces = [line]
        while columns > 12 and max(_width(piece, points) for piece in pieces) > room:
            columns -= 1
            pieces = textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False)
        lines += pieces
    return "\n".join(lines)


@functools.cache
def _width(text: str, points: float) -> float:
    return TextPath((0, 0), text, size=points).get_extents().width / 72


def _shortened(drawn: str) -> str:
    """SVG without indentation, and with its paths to a hundredth of a point."""
    paths = re.compile(r' d="[^"]*"')
    return paths.sub(lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), re.sub(r"\s*\n\s*", "\n", drawn))


def _drawn_as_svg(fig: plt.Figure) -> str:
    drawn = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with plt.rc_context(FIXED):
        fig.savefig(drawn, format="svg", dpi=DPI, transparent=True, metadata=nothing)
    return drawn.getvalue()
