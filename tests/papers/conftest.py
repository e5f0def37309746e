"""What the papers' tests share: little data for the rows of their experiments."""

import dataclasses
from collections.abc import Callable

import pytest

from course_lib import data


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """From `few(train, test)` on, `data.load` gives so many training and test images."""
    load = data.load

    def take(train: int, test: int) -> None:
        def fewer(name: str, **settings) -> data.Splits:
            whole = load(name, **settings)
            return dataclasses.replace(whole, train=whole.train.take(train), test=whole.test.take(test))

        monkeypatch.setattr(data, "load", fewer)

    return take
