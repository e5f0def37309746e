"""What a cell stands on: the right statements, and no others."""

import ast

import pytest

from course_lib.book import slices

ABOVE = [
    "import math\nimport missing_module",
    "env = dict(rate=2.0)\nraise_the_roof = lambda: 1 / 0",
    "layers = {name: width for name, width in [('a', 1), ('b', 2)]}",
    "for name in layers:\n    print(name, 1 / 0)",
    "env = dict(env, rate=3.0)",
    "def area(x):\n    return math.pi * x * env['rate']",
    "unused = 1 / 0",
]


def test_only_what_the_cell_stands_on_runs():
    value, names = slices.cell_value(ABOVE, "shown = area(len(layers))\nround(shown, 3)", {})
    assert value == pytest.approx(18.85)
    assert "unused" not in names and "missing_module" not in names


def test_what_is_given_is_not_made():
    value, _ = slices.cell_value(["roof = 1 / 0", "twice = 2 * roof"], "twice + 1", {"roof": 10})
    assert value == 21


def test_names_of_loops_are_no_names_of_the_notebook():
    above = [ast.parse("name = 1").body, ast.parse("pairs = [(name, 2) for name in 'ab']").body]
    kept = slices.needed(above, ast.parse("[name for name, _ in pairs]").body, set())
    assert [ast.unparse(one).partition(" ")[0] for one in kept] == ["pairs", "[name"]


def test_a_cell_that_fails_says_so():
    with pytest.raises(ZeroDivisionError):
        slices.cell_value(ABOVE, "unused", {})
