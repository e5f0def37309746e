"""Moving schematics: a slider steps through the frames of a drawing; readers without a kernel get all frames as a strip."""

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt

from course_lib.drawings import shapes
from course_lib.notebook import pictures

Frames = Sequence[tuple[str, Callable[[plt.Axes], None]]]  # caption, and the function that draws the frame
PACE = 1500  # milliseconds per frame


class Film(ipywidgets.VBox):
    """Frames of which one is shown at a time, by a slider or one after the other; the browser changes them without the kernel.

    Args:
        frames: captions and functions that draw on axes of `shapes.ACROSS` x `height` units.
        height: of a frame, in units.
        alt: what all frames together show, for someone who cannot see them.
    """

    def __init__(self, frames: Frames, height: float, alt: str):
        pages = [_page(frame, height, f"Step {step} of {len(frames)}: {frame[0]}") for step, frame in enumerate(frames, start=1)]
        self.frames = ipywidgets.Stack([ipywidgets.HTML(page) for page in pages], selected_index=0)
        self.step = ipywidgets.IntSlider(0, 0, len(frames) - 1, description="step", readout=False)
        play = ipywidgets.Play(min=0, max=len(frames) - 1, interval=PACE)
        ipywidgets.jslink((self.step, "value"), (self.frames, "selected_index"))
        ipywidgets.jslink((play, "value"), (self.step, "value"))
        super().__init__([ipywidgets.HBox([play, self.step]), self.frames])
        self.add_class("course-film")
        strip = shapes.film_strip(frames, height)
        self.still = pictures.bundle(strip, alt)
        plt.close(strip)

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        live = super()._repr_mimebundle_(**options)
        return live | self.still, pictures.metadata(self.still["text/plain"])


def _page(frame: tuple[str, Callable[[plt.Axes], None]], height: float, alt: str) -> str:
    caption, draw = frame
    fig, ax = shapes.canvas(height, caption)
    draw(ax)
    page = pictures.element(fig, alt)
    plt.close(fig)
    return page
