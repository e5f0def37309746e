"""Figures as they are shown: their text, width and colours, and what of it all stays the same from run to run."""

import base64
import html
import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from course_lib.notebook import pictures, plots
from tests.notebook.test_colours import DARK, WHITE, contrast

TITLE = "A finding in ordinary words, with its unit, that needs nearly 70 characters"
PHONE = 350  # pixels that are left for a figure on a screen of 390
XML = "{http://www.w3.org/2000/svg}"


def each_kind() -> dict:
    """Kind -> a figure of that kind."""
    groups = {"weights in dense layers": {"LeNet-5": 95.0, "VGG-16": 89.0}, "MACs": {"LeNet-5": 82.0, "VGG-16": float("nan")}}
    many = {f"{name}, trained for long": {f"layer {i}": float(i) for i in range(6)} for name in "abc"}
    energy = dict.fromkeys(["integer\nadd", "float\nadd", "integer\nmultiply", "float\nmultiply", "DRAM\nread"], 640.0)
    points = {"dense": ([0.5, 2.0], [4e8, 9e8]), "convolutions": ([20.0], [1e9])}
    band = {"a": ([0, 1], [2, 3])}
    return {
        "lines": plots.lines([1, 2], {"a": [1, 2]}, title=TITLE, xlabel=TITLE, ylabel=TITLE, spread=band),
        "bars": plots.bars({"a": 1.0, "b": 20.0}, title=TITLE, ylabel="y (pJ)", log=True),
        "bars that lie": plots.bars(energy, title=TITLE, ylabel="energy (pJ)"),
        "groups": plots.grouped_bars(groups, title=TITLE, ylabel="share (%)"),
        "groups that lie": plots.grouped_bars(many, title=TITLE, ylabel="share (%)"),
        "stacks": plots.stacked_bars(groups | {"MACs": {"LeNet-5": 1.0, "VGG-16": 2.0}}, title=TITLE, xlabel="kB"),
        "matrices": plots.matrices({"a": np.eye(3), "b": np.eye(3)}, title=TITLE, unit="u", values=True),
        "roofline": plots.roofline(1e9, 1e9, points, title=TITLE),
    }


@pytest.fixture(scope="module")
def drawn() -> dict:
    """Kind -> the figure, fitted, and its SVG."""
    plots.use_style()
    return {kind: (fig, pictures.svg(fig)) for kind, fig in each_kind().items()}


KINDS = (
    "lines", "bars", "bars that lie", "groups", "groups that lie", "stacks", "matrices", "roofline",
)  # fmt: skip


@pytest.fixture(params=KINDS)
def one(request, drawn):
    return drawn[request.param]


def test_text_has_eight_points_on_a_phone(one):
    fig, svg = one
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    smallest = min(text.get_fontsize() for text in fig.findobj(Text) if text.get_text())
    on_a_phone = smallest * PHONE * 72 / 96 / width
    assert width == 72 * plots.WIDTH and round(on_a_phone, 1) >= 8


def test_no_text_is_cut_off_and_no_labels_of_an_axis_meet(one):
    fig, _ = one
    fig.draw_without_rendering()
    for text in fig.findobj(Text):
        if text.get_text() and text.get_visible() and text in shown(fig):
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.x1 <= fig.bbox.width + 1 and box.y0 >= -1 and box.y1 <= fig.bbox.height + 1
            assert inside, text.get_text()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text() and label in shown(fig)]
            assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False)), axis.get_label_text()


def shown(fig) -> set:
    """Text that is drawn: labels of ticks beyond the ends of an axis are not."""
    hidden = set()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return set(fig.findobj(Text)) - hidden


def test_what_is_drawn_is_seen_on_both_grounds(one):
    _, svg = one
    for element, style in styled(ElementTree.fromstring(svg), {}):
        colours = {style[key] for key in ("fill", "stroke") if style.get(key, "").startswith("#")}
        if element.tag == f"{XML}text":
            on_a_cell = style.get("fill", "#000000") in ("#000000", "#ffffff") and "<image" in svg
            assert on_a_cell or style["fill"] == plots.INK, "".join(element.itertext())
        elif "opacity" not in " ".join(style):  # bands and grids are pale on purpose
            assert all(min(contrast(colour, ground) for ground in (WHITE, DARK)) >= 3 for colour in colours), element.attrib


def styled(element: ElementTree.Element, above: dict) -> Iterator[tuple[ElementTree.Element, dict]]:
    """An element and all in it, each with its style."""
    style = above | dict(re.findall(r"([\w-]+): ([^;]+)", element.get("style", "")))
    yield element, style
    for inner in element:
        yield from styled(inner, style)


def test_the_ink_follows_the_theme(drawn):
    svg = drawn["lines"][1]
    rule = re.search(r"prefers-color-scheme: dark\) \{(.*?)\}</style>", svg)[1]
    for what in ("fill", "stroke"):
        assert f'[style*="{what}: {plots.INK}"] {{{what}: {plots.INK_ON_DARK} !important}}' in rule
        assert f"{what}: {plots.INK};" in svg or f'{what}: {plots.INK}"' in svg


def test_the_ground_is_transparent(drawn):
    root = ElementTree.fromstring(drawn["lines"][1])
    grounds = [root.find(f".//{XML}g[@id='{name}']/{XML}path") for name in ("patch_1", "patch_2")]
    assert ["fill: none" in ground.get("style") for ground in grounds] == [True, True]


def test_the_alternative_text_is_in_every_form():
    alt = 'Accuracy falls from 98 to 40 %: "steep" & <sudden>.'
    plots.use_style()
    made = pictures.bundle(plots.bars({"a": 1.0}, title="t", ylabel="y"), alt)
    (found,) = re.findall(r'^<img alt="([^"]*)" src="data:image/svg\+xml;base64,[\w+/=]+">$', made["text/html"])
    assert html.unescape(found) == made["text/plain"] == pictures.metadata(alt)["image/png"]["alt"] == alt
    with Image.open(io.BytesIO(base64.b64decode(made["image/png"]))) as picture:
        assert picture.width == plots.WIDTH * pictures.FALLBACK_DPI and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_a_text_is_refused(alt):
    with pytest.raises(ValueError, match="needs a text for those who cannot see it"):
        pictures.bundle(plots.bars({"a": 1.0}, title="t", ylabel="y"), alt)


def test_the_same_figure_is_the_same_bytes():
    plots.use_style()
    first, second = (pictures.bundle(plots.bars({"a": 1.0}, title="t", ylabel="y"), "One bar.") for _ in range(2))
    assert first == second
    assert "20" not in re.sub(r"[\d.]+", "", pictures.svg(plots.bars({"a": 1.0}, title="t", ylabel="y"))).partition("<defs>")[0]


def test_a_large_drawing_becomes_pixels_and_its_text_stays_text(monkeypatch):
    plots.use_style()
    fig = plots.lines([0, 1], {"a": [0, 1]}, title="Many points", xlabel="x", ylabel="y")
    fig.axes[0].scatter(*np.random.default_rng(0).normal(size=(2, 1000)))
    small = pictures.svg(fig)
    monkeypatch.setattr(pictures, "LARGEST", 50_000)
    large = pictures.svg(fig)
    pixels = [("<image" in svg, ">Many points</text>" in svg) for svg in (small, large)]
    assert pixels == [(False, True), (True, True)]


def test_a_title_is_broken_only_where_it_is_too_long():
    plots.use_style()
    short, long = (plots.bars({"a": 1.0}, title=title, ylabel="y") for title in ("Short\nas it is", TITLE))
    for fig in (short, long):
        pictures.fit(fig)
    assert short.axes[0].get_title("left") == "Short\nas it is"
    assert long.axes[0].get_title("left").replace("\n", " ") == TITLE and "\n" in long.axes[0].get_title("left")
