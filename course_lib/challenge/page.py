"""The leaderboard as a page for a browser: a figure of bytes against error for each network, and a table for each size class."""

import html
from numbers import Integral

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from course_lib.challenge.places import CLASS, COURSE, PUBLISHED, front
from course_lib.notebook import pictures, plots

TICKS = [digit * 10**power for power in range(-2, 5) for digit in (1, 2, 5)]
KINDS = {
    CLASS: ("this class", "o", plots.BLUE),
    COURSE: ("the course", "^", plots.GREEN),
    PUBLISHED: ("published", "s", plots.ORANGE),
}
LEAST = 0.01  # percent; a logarithmic axis has no zero
HEADINGS = {"place": "place", "front": "front", "name": "who", "file": "file", "widths": "widths", "bytes": "bytes"}
HEADINGS |= {"warped_error": "warped digits, error %", "test_error": "test digits, error %"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>The smallest file that reads digits</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8888; }}
</style>
</head>
<body>
<h1>The smallest file that reads digits</h1>
<p>{about}</p>
{sections}
</body>
</html>
"""


def page(table: pd.DataFrame, seed: int, note: str = "") -> str:
    """Return the leaderboard as HTML that loads nothing from elsewhere and runs no script.

    Args:
        table: as `places.table` returns it.
        seed: of the warped digits.
        note: a sentence about the digits, where one is needed.
    """
    about = (
        f"Places go by the error on MNIST's test digits warped by affine maps of seed {seed}, and at equal errors by bytes; "
        f"files equal in both share a place. A number in the column <i>front</i> is the one in the figure, of a "
        f"file than which none is both smaller and better. {html.escape(note)}"
    )
    sections = [_section(name, rows) for name, rows in table[table.network.notna()].groupby("network")]
    refused = table[table.problem.notna()]
    if len(refused):
        sections += ["<h2>Not scored</h2>", _html(refused[["name", "file", "problem"]])]
    return PAGE.format(about=about, sections="\n".join(sections))


def _section(network: str, rows: pd.DataFrame) -> str:
    parts = [f"<h2>{html.escape(network)}</h2>", pictures.element(figure(rows, network), alternative_text(rows, network))]
    plt.close("all")
    for most, some in rows[rows.kind == CLASS].groupby("size_class"):
        parts += [f"<h3>Up to {most:,.0f} bytes</h3>", _html(some[list(HEADINGS)].rename(columns=HEADINGS))]
    others = rows[rows.kind != CLASS].sort_values("bytes")
    names = [name for name in HEADINGS if name != "place"]
    return "\n".join([*parts, "<h3>The course's own and published files</h3>", _html(others[names].rename(columns=HEADINGS))])


def _html(table: pd.DataFrame) -> str:
    """A table whose texts are escaped."""
    texts = pd.DataFrame({name: [_text(value) for value in column] for name, column in table.items()})
    with pd.option_context("display.max_colwidth", None):
        return f"<div>{texts.to_html(index=False, border=0)}</div>"


def _text(value: object) -> str:
    if pd.isna(value):
        return ""
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.2f}" if isinstance(value, float) else str(value)


def figure(rows: pd.DataFrame, network: str) -> plt.Figure:
    """Return bytes against error, both logarithmic: above on the warped digits, below on the test digits, with their fronts."""
    plots.use_style()
    fig, axes = plt.subplots(2, 1, sharex=True, figsize=(plots.WIDTH, 6.4))
    for ax, column, digits in zip(axes, ("warped_error", "test_error"), ("warped digits", "test digits"), strict=True):
        known = rows[rows[column].notna()]
        for kind, (label, marker, colour) in KINDS.items():
            some = known[known.kind == kind]
            if len(some):
                ax.scatter(some.bytes, some[column].clip(LEAST), 30, color=colour, marker=marker, label=label, zorder=3)
        best = known.iloc[front(known.bytes, known[column])]
        ax.step(best.bytes, best[column].clip(LEAST), where="post", color=plots.INK, linewidth=1.2, label="Pareto front")
        ax.set(xscale="log", yscale="log", ylabel=f"error on {digits} (%)")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator(TICKS))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        ax.margins(0.12)
    for one in rows[rows.front.notna()].itertuples():
        axes[0].annotate(str(one.front), (one.bytes, max(one.warped_error, LEAST)), (4, 4), textcoords="offset points")
    counts = rows.front.notna().sum(), rows.warped_error.notna().sum()
    axes[0].set_title("{}: {} of {} files are on the Pareto front".format(network, *counts))
    axes[1].set_xlabel("bytes of the file")
    axes[1].legend()
    return fig


def alternative_text(rows: pd.DataFrame, network: str) -> str:
    """Return what the figure shows, for someone who cannot see it."""
    counts = [f"{(rows.kind == kind).sum()} of {label}" for kind, (label, _, _) in KINDS.items() if (rows.kind == kind).any()]
    text = f"Two scatter plots of bytes against error for {network}, with {', '.join(counts)}."
    best = rows[rows.front.notna()].sort_values("bytes")
    if len(best):
        ends = [f"{one.bytes:,.0f} bytes and {one.warped_error:.2f} % error" for one in (best.iloc[0], best.iloc[-1])]
        text += f" On warped digits the Pareto front of {len(best)} files goes from {ends[0]} to {ends[1]}."
    return text
