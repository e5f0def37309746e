"""How Deep Compression works, drawn: what is stored after each stage, ten weights on their way to bits, and centroids in motion.

Gaps and codes are the library's, and the moving centroids are those of a small regression: what training does is computed.
"""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION
from course_lib.papers import deep_compression as paper

Draw = Callable[[plt.Axes], None]

TEN = (2.2, 1.8, 0.1, -0.9, 0.2, -0.1, 0.3, -0.2, 2.0, -1.1)  # weights, of which those below 0.5 are pruned
SHARED = (2.0, 2.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 2.0, -1.0)  # the same after k-means with two centroids
GAP_BITS = 2
CODE_WORDS = {2: "0", 0: "10", 1: "11"}  # Huffman's: code 2 is used three times, code 0 twice
GAP_WORDS = {1: "0", 2: "10", 4: "11"}
VALUES = {2.0: BLUE, -1.0: PURPLE, 0.0: VERMILION}  # colours; zero is a filler
SHARED_MATRIX = np.array([[2, 2, 0, 0, 2], [-2, 2, 0, 0, 0], [0, 1, 0, 0, 0], [-3, -2, 0, 0, 0]])
# Weights of which magnitude pruning and k-means make this matrix: the pruned ones are the smallest
SPREAD = np.where(SHARED_MATRIX == 0, 0.21, 0.35)
TRAINED_MATRIX = SHARED_MATRIX + SPREAD * np.random.default_rng(43).normal(size=SHARED_MATRIX.shape)
LOOKS = {-3: VERMILION, -2: PURPLE, 1: GREEN, 2: BLUE}  # colours of the centroids
GAPS = ORANGE  # as in the figures of a file's bytes
MATRIX_CODE_WORDS = {3: "0", 1: "10", 0: "110", 2: "111"}
MATRIX_GAP_WORDS = {1: "0", 5: "10", 3: "110", 4: "111"}


class Entries(NamedTuple):
    """What is stored of the ten weights: a gap, a code and a value for each survivor and each filler."""

    gaps: list[int]
    filler: list[bool]
    values: list[float]
    codes: list[int]


def entries() -> Entries:
    """Return the stored entries of the ten weights."""
    weights = torch.tensor(SHARED)
    gaps, filler = paper.relative_index(weights != 0, GAP_BITS)
    values = torch.zeros(len(gaps))
    values[~filler] = weights[weights != 0]
    return Entries(gaps.tolist(), filler.tolist(), values.tolist(), values.unique(return_inverse=True)[1].tolist())


def method_drawing() -> plt.Figure:
    """Draw a matrix after each of the three stages, and what is stored of it in the end."""
    values = SHARED_MATRIX
    looks = [[LOOKS.get(int(value)) for value in line] for line in values]
    texts = [[str(value) if value else "" for value in line] for line in values]
    fig, ax = shapes.canvas(18.4, "Prune, share the values that stay, write short codewords")
    first = shapes.weights(ax, (0.3, 13.0), TRAINED_MATRIX, name="trained")
    second = shapes.weights(ax, (7.5, 13.0), TRAINED_MATRIX, kept=values != 0, name="1. pruned")
    third = shapes.cells(ax, (14.7, 13.0), looks, texts=texts, name="2. values shared")
    shapes.arrow(ax, first.right_side, second.left_side)
    shapes.arrow(ax, second.right_side, third.left_side)
    shapes.arrow(ax, third.foot, (third.foot[0], 9.5))
    stored = [int(value) for value in values.flatten() if value]
    codes = [str(list(LOOKS).index(value)) for value in stored]
    gaps = paper.relative_index(torch.from_numpy(values != 0), 3)[0].tolist()
    for code in range(len(LOOKS)):
        shapes.write(ax, (8.075 + 1.15 * code, 11.5), str(code))
    _stored(ax, 9.8, "codebook", [str(value) for value in LOOKS], list(LOOKS.values()))
    _stored(ax, 8.1, "codes", codes, [LOOKS[value] for value in stored])
    _stored(ax, 6.4, "gaps", [str(gap) for gap in gaps], [GAPS] * len(gaps))
    for name, texts, words, height in (("codes", codes, MATRIX_CODE_WORDS, 4.8), ("gaps", gaps, MATRIX_GAP_WORDS, 3.3)):
        shapes.write(ax, (0.3, height), f"3. {name}, written", align="left")
        shapes.box(ax, (13.4, height), " ".join(words[int(text)] for text in texts), width=11.8, height=1.2, colour=GREEN)
    shapes.write(ax, (0.3, 0.7), "A gap counts the steps from one survivor to the next.", align="left")
    shapes.write(ax, (0.3, 1.7), "Squares: area is magnitude; blue positive, orange negative.", align="left")
    return fig


def _stored(ax: plt.Axes, bottom: float, name: str, texts: Sequence[str], colours: Sequence[str]) -> None:
    shapes.write(ax, (0.3, bottom + 0.6), name, align="left")
    shapes.cells(ax, (7.5, bottom), [colours], size=1.15, texts=[texts])


def ten_weights() -> plt.Figure:
    """Draw ten weights on their way to bits, step by step below each other."""
    steps = [
        ("Prune the weights below 0.5 in magnitude", _pruned),
        ("Share: k-means with two centroids", _shared),
        ("Gaps of two bits reach 4 places. The gap of 5 needs a filler, a stored zero", _gapped),
        ("Codewords: the more frequent, the shorter", _worded),
        ("Write them one after the other", _written),
    ]
    return shapes.film_strip(steps, 4.6)


def _pruned(ax: plt.Axes) -> None:
    colours = [(BLUE if value > 0 else PURPLE) if abs(value) > 0.5 else None for value in TEN]
    shapes.cells(ax, (0.5, 1.7), [colours], size=1.9, texts=[[f"{value:g}" for value in TEN]])
    shapes.write(ax, (0.5, 0.8), "10 weights x 32 bits = 320 bits", align="left")


def _shared(ax: plt.Axes) -> None:
    colours = [VALUES[value] if value else None for value in SHARED]
    shapes.cells(ax, (0.5, 1.7), [colours], size=1.9, texts=[[f"{value:g}" if value else "" for value in SHARED]])
    shapes.write(ax, (0.5, 0.8), "codebook: -1, 0 for fillers, and 2: 3 x 32 bits", align="left")


def _gapped(ax: plt.Axes) -> None:
    found, place = entries(), 0
    texts, colours = [""] * len(TEN), [None] * len(TEN)
    for gap, value in zip(found.gaps, found.values, strict=True):
        ends = [0.5 + 1.9 * (at - 0.5) for at in (place, place + gap)]
        place += gap
        texts[place - 1], colours[place - 1] = f"{value:g}", VALUES[value]
        arc = dict(arrowstyle="-|>", mutation_scale=9, connectionstyle=f"arc3,rad={-0.5 / gap}", color=GAPS)
        ax.add_patch(FancyArrowPatch((max(ends[0], 0.1), 2.3), (ends[1], 2.3), shrinkA=1, shrinkB=1, **arc))
        shapes.write(ax, (sum(ends) / 2, 3.7), str(gap), colour=GAPS)
    shapes.cells(ax, (0.5, 0.3), [colours], size=1.9, texts=[texts])


def _worded(ax: plt.Axes) -> None:
    found = entries()
    lines = {
        "gap": [str(gap) for gap in found.gaps],
        "codeword": [GAP_WORDS[gap] for gap in found.gaps],
        "code": [str(code) for code in found.codes],
        "codeword ": [CODE_WORDS[code] for code in found.codes],
    }
    looks = {"gap": [GAPS] * len(found.gaps), "code": [VALUES[value] for value in found.values]}
    for row, (name, texts) in enumerate(lines.items()):
        height = 3.9 - 1.1 * row
        shapes.write(ax, (0.3, height), name.strip(), align="left")
        for column, text in enumerate(texts):
            place = (5.5 + 2.5 * column, height)
            if name in looks:
                shapes.cells(ax, (place[0] - 0.5, height - 0.5), [[looks[name][column]]], texts=[[text]])
            else:
                shapes.write(ax, place, text)


def _written(ax: plt.Axes) -> None:
    found = entries()
    gaps, codes = ([words[one] for one in stream] for words, stream in ((GAP_WORDS, found.gaps), (CODE_WORDS, found.codes)))
    for height, name, words in ((3.9, "gaps", gaps), (2.4, "codes", codes)):
        shapes.write(ax, (0.3, height), name, align="left")
        bits = sum(map(len, words))
        shapes.box(ax, (9.0, height), " ".join(words), width=9.4, height=1.2, colour=GREEN)
        shapes.write(ax, (14.4, height), f"{bits} bits", align="left")
    total = sum(map(len, gaps + codes))
    all_bits = f"{total} bits, and {32 * len(VALUES)} for the codebook: {total + 32 * len(VALUES)} instead of {32 * len(TEN)}"
    shapes.write(ax, (0.3, 0.8), all_bits, align="left")


def huffman_tree() -> plt.Figure:
    """Draw how Huffman's tree grows over the gaps of the ten weights, and the codewords read from it."""
    steps = [
        ("Count how often each gap occurs", lambda ax: _tree(ax, merged=0)),
        ("Join the two rarest: from now on they count as one", lambda ax: _tree(ax, merged=1)),
        ("Join again until one is left. Read each codeword from the top", lambda ax: _tree(ax, merged=2)),
    ]
    return shapes.film_strip(steps, 6.0)


def _tree(ax: plt.Axes, merged: int) -> None:
    """Leaves are the gaps; a joint above two nodes has the sum of their counts."""
    counts = collections.Counter(entries().gaps)
    places = {1: (4.0, 1.6), 2: (8.5, 1.6), 4: (13.0, 1.6)}
    rare, top = (10.75, 3.3), (7.4, 5.0)
    branches = [(rare, {"0": places[2], "1": places[4]}), (top, {"0": places[1], "1": rare})][:merged]
    totals = {rare: counts[2] + counts[4], top: sum(counts.values())}
    for node, below in branches:
        for bit, end in below.items():
            ax.plot([node[0], end[0]], [node[1] - 0.5, end[1] + 0.5], color=INK, linewidth=1.3)
            aside = -0.55 if end[0] < node[0] else 0.55
            shapes.write(ax, ((node[0] + end[0]) / 2 + aside, (node[1] + end[1]) / 2 + 0.1), bit)
        ax.add_patch(Rectangle((node[0] - 0.5, node[1] - 0.5), 1, 1, facecolor="none", edgecolor=INK, linewidth=1.3))
        shapes.write(ax, node, str(totals[node]))
    for gap, (x, y) in places.items():
        shapes.cells(ax, (x - 0.5, y - 0.5), [[GAPS]], texts=[[str(gap)]])
        times = "once" if counts[gap] == 1 else f"{counts[gap]} times"
        shapes.write(ax, (x, 0.5), f"{times}: {GAP_WORDS[gap]}" if merged == 2 else times)
    shapes.write(ax, (0.3, 1.6), "gap", align="left")


class State(NamedTuple):
    """The centroids of the regression at one moment."""

    centroids: np.ndarray
    gradients: np.ndarray  # of the loss, one for each survivor
    error: float  # in per cent of the outputs' variance


class Run(NamedTuple):
    """A small regression whose weights are shared, from the start of k-means to the end of training."""

    weights: np.ndarray  # the survivors
    first_codes: np.ndarray  # of the linear start
    codes: np.ndarray  # of k-means, fixed from then on
    start: State
    clustered: State
    trained: list[State]  # after each number of steps in STEPS


SIDE, SURVIVORS, K, RATE, STEPS = 6, 20, 4, 0.004, (1, 200)
CENTROID_COLOURS = list(LOOKS.values())
HEIGHT = 6.4  # of a frame, in units
LONGER = 10  # times a step of training: the arrows
LINE, REACH = 3.2, 16.4  # height of the line of numbers, and how wide the survivors lie; units


def frames() -> list[tuple[str, Draw]]:
    """Return the frames of moving centroids: caption, and what draws it on axes of 20 x 6.4 units."""
    run = regression()
    one, many = run.trained

    def frame(caption: str, state: State, before: State | None = None, codes: np.ndarray = run.codes, arrows: bool = False):
        return caption, lambda ax: _draw_state(ax, run.weights, codes, state, before, arrows)

    return [
        frame("Linear start: equal steps. Each weight takes the nearest centroid", run.start, codes=run.first_codes),
        frame("k-means: each centroid moves to the mean of its weights", run.clustered, run.start),
        frame("Each weight pulls downhill. Its centroid gets the sum", run.clustered, arrows=True),
        frame("One step: each centroid follows its sum", one, run.clustered),
        frame(f"{STEPS[1]} steps. Each weight still has the same centroid", many, run.clustered),
    ]


def regression() -> Run:
    """Return a regression whose survivors are shared by k-means and then trained, as the paper trains a layer."""
    random = np.random.default_rng(39)
    inputs = random.normal(size=(300, SIDE)) + 2 * random.normal(size=(300, 1))  # correlated: one weight makes up for another
    dense = random.normal(size=(SIDE, SIDE))
    kept = np.abs(dense) >= np.sort(np.abs(dense), axis=None)[-SURVIVORS]
    outputs, weights = inputs @ (dense * kept).T, dense[kept]

    def state(centroids: np.ndarray, codes: np.ndarray) -> State:
        matrix = np.zeros(kept.shape)
        matrix[kept] = centroids[codes]
        missed = inputs @ matrix.T - outputs
        return State(centroids, (2 * missed.T @ inputs / len(inputs))[kept], 100 * missed.var() / outputs.var())

    centroids = np.linspace(weights.min(), weights.max(), K)
    codes = first = _nearest(weights, centroids)
    start = state(centroids, first)
    for _ in range(50):
        centroids = np.array([weights[codes == code].mean() for code in range(K)])
        codes = _nearest(weights, centroids)
    clustered, trained = state(centroids, codes), []
    for step in range(1, max(STEPS) + 1):
        centroids = centroids - RATE * _summed(state(centroids, codes), codes)
        trained += [state(centroids, codes)] if step in STEPS else []
    return Run(weights, first, codes, start, clustered, trained)


def _nearest(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.abs(weights[:, None] - centroids).argmin(1)


def _summed(state: State, codes: np.ndarray) -> np.ndarray:
    return np.bincount(codes, state.gradients, minlength=K)


def _draw_state(ax: plt.Axes, weights: np.ndarray, codes: np.ndarray, state: State, before: State | None, arrows: bool) -> None:
    """Above the line the survivors as strokes; below it the centroids as blocks, with where they came from."""
    middle, unit = (weights.max() + weights.min()) / 2, REACH / np.ptp(weights)
    strokes, blocks = (10 + unit * (values - middle) for values in (weights, state.centroids))
    ax.plot([0.3, 19.7], [LINE, LINE], color=INK, linewidth=1)
    for place, code in zip(strokes, codes, strict=True):
        ax.plot([place, place], [LINE, LINE + 1.2], color=CENTROID_COLOURS[code], linewidth=2.5)
    for code, (place, centroid) in enumerate(zip(blocks, state.centroids, strict=True)):
        ax.add_patch(Rectangle((place - 0.3, LINE - 1.2), 0.6, 1.0, facecolor=CENTROID_COLOURS[code], edgecolor="none"))
        shapes.write(ax, (place, 0.8), f"{centroid:.2f}".replace("-", "\N{MINUS SIGN}"))
        if before is not None:
            was = 10 + unit * (before.centroids[code] - middle)
            ax.plot([was, was], [LINE - 1.4, LINE - 0.05], color=INK, linewidth=1.5, linestyle=":")
    if arrows:
        scale = LONGER * RATE * unit
        for number, (place, code, gradient) in enumerate(zip(strokes, codes, state.gradients, strict=True)):
            _pull(ax, place, LINE + 1.4 + 0.3 * (number % 4), -scale * gradient, CENTROID_COLOURS[code], 1.0)
        for code, (place, gradient) in enumerate(zip(blocks, _summed(state, codes), strict=True)):
            _pull(ax, place, LINE - 1.65, -scale * gradient, CENTROID_COLOURS[code], 2.5)
    shapes.write(ax, (0.3, 5.9), f"error: {state.error:.1f} % of the outputs' variance", align="left")
    if arrows or before is not None:
        note = f"arrows: {LONGER} times the step" if arrows else "dotted: before"
        shapes.write(ax, (19.7, 5.9), note, align="right")


def _pull(ax: plt.Axes, left: float, height: float, length: float, colour: str, width: float) -> None:
    look = dict(arrowstyle="-|>", color=colour, linewidth=width, mutation_scale=6 + 2 * width, shrinkA=0, shrinkB=0)
    ax.annotate("", (left + length, height), (left, height), arrowprops=look)
