"""How much work a run does: `smoke`, `lesson` or `paper`, read from COURSE_SCALE in this one place.

smoke   embedded data, a step or two of everything; for tests, the same on every machine
lesson  real data and the committed baselines, a laptop CPU, at most ten minutes a notebook (the default)
paper   full data and the paper's schedule, meant for CUDA; refuses stand-in data
"""

import os
from typing import TypeVar

SCALES = ("smoke", "lesson", "paper")
T = TypeVar("T")


class StandInWarning(UserWarning):
    """A stand-in is in use although real data was asked for."""


def name() -> str:
    """The scale in force. Raises ValueError when COURSE_SCALE holds anything but the three names."""
    scale = os.environ.get("COURSE_SCALE", "lesson")
    if scale not in SCALES:
        raise ValueError(f"COURSE_SCALE is {scale!r}; allowed are {', '.join(SCALES)}")
    return scale


def pick(*, smoke: T, lesson: T, paper: T) -> T:
    """The value for the scale in force: `epochs = scale.pick(smoke=1, lesson=4, paper=60)`."""
    return {"smoke": smoke, "lesson": lesson, "paper": paper}[name()]
