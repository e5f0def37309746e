"""How the smallest file is made, drawn: the pipeline, a weight's contexts, an arithmetic coder on eight decisions."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import log2, log10

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION

Frames = list[tuple[str, Callable[[plt.Axes], None]]]

EIGHT = (0, 0, 0, 1, 0, 0, 0, 0)  # decisions: is the weight left?
CHANCE = Fraction(1, 4)  # of a 1
HEIGHT = 3.9  # of a frame of the coder
BAR = 3.0  # height of a frame of the budget
FIRST, LAST = 3, 6.5  # powers of ten at the ends of the budget's axis
LEVELS = ((2, 0, -1, 0, 1, 0), (1, 0, 0, 0, 1, 0), (0, 1, -1, 0, 0, 0), (1, 0, 0, 0, 0, 0))  # of the drawing of contexts
AT = (2, 4)  # the weight that is coded there


def pipeline_drawing() -> plt.Figure:
    """Draw the six steps of the pipeline, each with what it does to the network or to its file."""
    fig, ax = shapes.canvas(11.6, "Five steps change the network, the sixth writes it")
    steps = {
        "1. trim": "keep the few\nneurons with the\nlargest weights",
        "2. distil": "learn from the\nlogits of large\nnetworks",
        "3. prune": "remove what is\nleast important\nper bit",
        "4. steps": "choose how\ncoarse each\nlayer may be",
        "5. instalments": "round some,\ntrain the rest,\nround more",
        "6. code": "predict each\ninteger, write\nthe surprise",
    }
    colours = (SKY, BLUE, VERMILION, PURPLE, ORANGE, GREEN)
    boxes = []
    for place, ((name, text), colour) in enumerate(zip(steps.items(), colours, strict=True)):
        row, column = divmod(place, 3)
        centre = (3.3 + 6.7 * column, 8.0 - 5.9 * row)
        boxes.append(shapes.box(ax, centre, text, width=5.7, height=3.4, colour=colour))
        shapes.write(ax, (centre[0], centre[1] + 2.3), name)
    for one, other in ((0, 1), (1, 2), (3, 4), (4, 5)):
        shapes.arrow(ax, boxes[one].right_side, boxes[other].left_side)
    return fig


def contexts_drawing() -> plt.Figure:
    """Draw what the coder looks at before it codes a weight: weights that the decoder already has."""
    fig, ax = shapes.canvas(8.2, "What is already written predicts the next weight")
    looks, texts = [], []
    for row, line in enumerate(LEVELS):
        before = [(row, column) < AT for column in range(len(line))]
        texts.append(["?" if (row, column) == AT else str(value) if before[column] else "" for column, value in enumerate(line)])
        looks.append([_look(row, column) if before[column] or (row, column) == AT else None for column in range(len(line))])
    grid = shapes.cells(ax, (0.4, 1.0), looks, size=1.5, texts=texts, name="a layer, row by row")
    words = {"in the same column": BLUE, "in the same row": ORANGE, "the two neighbours": GREEN, "elsewhere": PURPLE}
    for place, (word, colour) in enumerate(words.items()):
        shapes.cells(ax, (10.4, 6.1 - 1.3 * place), [[colour]], size=0.8)
        shapes.write(ax, (11.6, 6.5 - 1.3 * place), word, align="left")
    shapes.write(ax, (10.4, 1.2), "each gives a probability;\na mixer weighs them", align="left")
    shapes.write(ax, (grid.foot[0], 0.4), "dotted: not written yet")
    return fig


def _look(row: int, column: int) -> str:
    if (row, column) == AT:
        return VERMILION
    if (row, column) in ((AT[0], AT[1] - 1), (AT[0] - 1, AT[1])):
        return GREEN
    return BLUE if column == AT[1] else ORANGE if row == AT[0] else PURPLE


def intervals(decisions: Sequence[int], chance: Fraction = CHANCE) -> list[tuple[Fraction, Fraction]]:
    """Return the interval of the arithmetic coder before the first decision and after each, exactly.

    A 1 takes the lower part of the interval, in proportion to its probability, and a 0 the rest.

    >>> intervals([0, 1])[-1]
    (Fraction(1, 4), Fraction(7, 16))
    """
    found = [(Fraction(0), Fraction(1))]
    for decision in decisions:
        low, high = found[-1]
        middle = low + (high - low) * chance
        found.append((low, middle) if decision else (middle, high))
    return found


def shortest(low: Fraction, high: Fraction) -> str:
    """Return the fewest binary digits d such that 0.d lies in [low, high).

    >>> shortest(Fraction(5, 8), Fraction(3, 4)), shortest(Fraction(0), Fraction(1))
    ('101', '')
    """
    digits = 0
    while True:
        number = -(-low * 2**digits // 1)  # the first multiple of 2^-digits that is not below
        if number < high * 2**digits:
            return f"{int(number):0{digits}b}" if digits else ""
        digits += 1


def coder_frames() -> Frames:
    """Return the frames of the arithmetic coder: each of the eight decisions narrows the interval."""
    found = intervals(EIGHT)
    captions = [
        f"Decision {count}: {decision} takes the {'lower quarter' if decision else 'upper three quarters'}"
        for count, decision in enumerate(EIGHT, start=1)
    ]
    frames = [(caption, _narrowing(found[count], found[count + 1])) for count, caption in enumerate(captions)]
    bits = shortest(*found[-1])
    return [*frames, (f"Any number in it will do: 0.{bits} has only {len(bits)} bits", _named(found[-1], bits))]


def _narrowing(before: tuple[Fraction, Fraction], after: tuple[Fraction, Fraction]) -> Callable[[plt.Axes], None]:
    def draw(ax: plt.Axes) -> None:
        middle = before[0] + (before[1] - before[0]) * CHANCE
        _line(ax, before, after)
        ax.plot([5.0, 5.0], [2.0, 3.5], color=INK, linewidth=1, linestyle=":")
        shapes.write(ax, (2.75, 2.8), "1")
        shapes.write(ax, (12.2, 2.8), "0")
        for place, value in ((0.5, before[0]), (5.0, middle), (18.5, before[1])):
            shapes.write(ax, (min(max(place, 1.1), 18.6), 1.4), f"{float(value):.4f}")
        shapes.write(ax, (10, 0.5), f"the interval is worth {-log2(after[1] - after[0]):.2f} bits")

    return draw


def _named(found: tuple[Fraction, Fraction], bits: str) -> Callable[[plt.Axes], None]:
    def draw(ax: plt.Axes) -> None:
        _line(ax, found, found)
        value = sum(Fraction(int(bit), 2**place) for place, bit in enumerate(bits, start=1))
        at = 0.5 + 18 * float((value - found[0]) / (found[1] - found[0]))
        ax.plot([at, at], [1.9, 3.6], color=VERMILION, linewidth=2)
        for place, number in ((1.1, found[0]), (18.6, found[1])):
            shapes.write(ax, (place, 1.4), f"{float(number):.4f}")
        shapes.write(ax, (10, 0.5), f"0.{bits} in binary is {float(value):.5f}")

    return draw


def _line(ax: plt.Axes, whole: tuple[Fraction, Fraction], part: tuple[Fraction, Fraction]) -> None:
    """An interval from edge to edge, and the part of it that is taken."""
    width = whole[1] - whole[0]
    left, right = (0.5 + 18 * float((end - whole[0]) / width) for end in part)
    ax.add_patch(Rectangle((left, 2.0), right - left, 1.5, facecolor=BLUE, alpha=0.35))
    ax.add_patch(Rectangle((0.5, 2.0), 18, 1.5, facecolor="none", edgecolor=INK, linewidth=1))


def budget_frames(steps: Mapping[str, tuple[float, float]]) -> Frames:
    """Return the frames of a budget of bytes that shrinks: a bar per step, beside that of the step before.

    Args:
        steps: step -> bytes of the file and test error in percent.
    """
    names, sizes = list(steps), [size for size, _ in steps.values()]
    captions = [
        f"{name}: {size:,.0f} bytes, {error:.2f} % test error" for name, (size, error) in zip(names, steps.values(), strict=True)
    ]
    return [(caption, _bar(sizes[max(0, place - 1)], sizes[place])) for place, caption in enumerate(captions)]


def _bar(before: float, now: float) -> Callable[[plt.Axes], None]:
    def draw(ax: plt.Axes) -> None:
        start, end, frame = (_power(value) for value in (10**FIRST, now, before))
        ax.add_patch(Rectangle((start, 1.5), end - start, 1.3, facecolor=BLUE))
        ax.add_patch(Rectangle((start, 1.5), frame - start, 1.3, facecolor="none", edgecolor=INK, linewidth=1, linestyle=":"))
        for power, word in ((3, "1 kB"), (4, "10 kB"), (5, "100 kB"), (6, "1 MB")):
            ax.plot([_power(10**power)] * 2, [1.2, 1.5], color=INK, linewidth=1)
            shapes.write(ax, (max(_power(10**power), 1.2), 0.6), word)

    return draw


def _power(size: float) -> float:
    """Where a number of bytes lies on the logarithmic axis."""
    return 0.4 + 19 * (log10(size) - FIRST) / (LAST - FIRST)
