"""A loop of prunings and retrainings, interrupted in a step of training and started again."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib import training


def resumed(loop: Callable[..., Any], step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, int]:
    """What `loop` gives undisturbed, what it gives when resumed after an interrupt in a step, and how many steps that took.

    Both networks are asserted to be the same to the last bit; `loop` takes `resume_from`, and has its files in `folder`.
    """
    whole, original, steps = loop(), training.fitting._step, itertools.count(1)

    def interrupted(*arguments):
        if next(steps) == step:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.fitting, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop(resume_from=folder / "state")
    left = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(training.fitting, "_step", lambda *arguments: next(left) and original(*arguments))
        again = loop(resume_from=folder / "state")
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    return whole, again, next(left) - 1
