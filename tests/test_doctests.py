"""The examples in docstrings are right. Only modules that hold some are imported, and by one process of the test run."""

import doctest
import importlib

import pytest

from course_lib.files import ROOT

EXAMPLE = ">>> "
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "course_lib").rglob("*.py"))
    if EXAMPLE in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_show(name):
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 0 and failed == 0


def test_there_are_modules_with_examples():
    assert "course_lib.papers.channel_pruning" in MODULES and "course_lib.surgery.keeping" in MODULES
