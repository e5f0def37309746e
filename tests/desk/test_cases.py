"""The smallest failing case, and how values are written."""

import numpy as np
import pytest
import torch

from course_lib.desk.cases import smallest
from course_lib.desk.describing import describe, size_of


def case(test: str, **names):
    """The smallest case of a test in which `f` is the answer."""
    return smallest(test, dict(np=np, torch=torch) | names, {"f", "plan"})


def double(x):
    return 3 * x


@pytest.mark.parametrize(
    ("test", "call", "came", "expected"),
    [
        ("assert f(2) == 4, 'twice'", "f(2)", "6", "4"),
        ("assert 4 == f(2)", "f(2)", "6", "4"),
        ("for _n in (5, 1, 3):\n    assert f(_n) == 2 * _n", "f(1)", "3", "2"),
        ("_r = f(2)\n_e = 4\nassert _r <= _e", "f(2)", "6", "at most 4"),
        ("_r = f(2)\nassert 7 < _r", "f(2)", "6", "more than 7"),
        ("assert np.allclose(f(torch.ones(2)), [2, 2])", "f(tensor([1, 1]))", "tensor([3, 3])", "[2, 2]"),
        ("assert torch.equal(torch.ones(1), f(torch.ones(1)))", "f(tensor([1]))", "tensor([3])", "tensor([1])"),
        ("assert True and f(x=1) == 2", "f(x=1)", "3", "2"),
        ("def _helper(n):\n    return f(n) == 2 * n\n\n\nassert _helper(4) and _helper(1)", "f(4)", "12", ""),
        ("assert f(0) == 0\nassert len([f(i) for i in range(3)]) == 4", "f(2)", "3", "4"),
        ("assert plan['a'] < 1, 'small'", "plan = {'a': 2}", "2", "less than 1"),
    ],
)
def test_what_was_asked_what_came_and_what_was_expected(test, call, came, expected):
    names = dict(plan=dict(a=2)) if "plan" in test else dict(f=double)
    found = case(test, **names)
    assert (found.call, found.came, found.expected) == (call, came, expected)


def test_an_exception_of_the_answer_and_one_of_the_test_are_told_apart():
    def broken(x):
        return [][x]

    assert case("assert f(1) == 2", f=broken).came.startswith("IndexError: list index out of range")
    found = case("assert f(1).shape == (1,)", f=lambda x: None)
    assert found.came == "None" and "the test could not go on: AttributeError" in found.hint
    found = case("np.testing.assert_array_equal(f(1), 2)", f=double)
    assert found.came == "3" and found.call == "f(1)"


def test_a_message_is_told_and_one_that_fails_is_not():
    assert case("assert f(2) == 4, f'{2:.1f} times'", f=double).hint == "2.0 times"
    assert case("assert f(2) == 4, nowhere", f=double).hint == ""


def test_the_test_s_own_text_and_helpers_are_not_told():
    test = "_secret_oracle = [2]\nassert [f(1)] == _secret_oracle"
    assert "_secret_oracle" not in str(case(test, f=double))
    assert case("def _ok(n):\n    return f(n) == 1\n\n\nassert _ok(1) == True", f=double).expected == ""


def test_the_namespace_and_the_answer_stay_as_they_were():
    names = dict(f=double)
    case("f.extra = 1\n_new = 2\nassert f(1) == 2", **names)
    assert names == dict(f=double)


def test_an_empty_answer_is_for_the_caller():
    def empty(x):
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        case("assert f(1) == 2", f=empty)


def test_half_an_answer_is_no_empty_one():
    def half(x):
        if x > 1:
            raise NotImplementedError("above 1")
        return 2 * x

    found = case("assert f(1) == 2\nassert f(2) == 4", f=half)
    assert found.call == "f(2)" and found.came.startswith("NotImplementedError: above 1")


def test_an_answer_that_ends_the_program_has_failed():
    assert case("assert f(1) == 2", f=lambda x: exit(x)).came.startswith("SystemExit: 1")


def test_a_test_that_passes_now_has_no_case():
    assert case("assert f(1) == 3", f=double) is None


def test_an_assertion_that_assigns_still_works():
    assert case("assert (_y := f(1)) == 2\nassert _y == 2", f=double).call == "f(1)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"),
        (None, "None"),
        ((1,), "(1,)"),
        ({"a": [1.0, "b"]}, "{'a': [1, 'b']}"),
        (torch.tensor([[True, False]]), "tensor([[True, False]])"),
        (torch.tensor(2.5), "2.5"),
        (np.zeros((4, 5)), "array of shape (4, 5), float64"),
        (torch.zeros(3, 7), "tensor of shape (3, 7), float32"),
        (iter([1]), "an iterator"),
        (double, "double"),
        (torch.nn.Linear(1, 1), "a Linear"),
        (np.float32(0.5), "0.5"),
    ],
)
def test_a_value_in_a_few_words(value, text):
    assert describe(value) == text


def test_long_values_are_cut():
    assert describe(list(range(1000)), 20) == "[0, 1, 2, 3, 4, 5, …" and len(describe("x" * 10_000)) == 60
    nested: list = []
    nested.append(nested)
    assert len(describe(nested)) < 60


def test_sizes():
    assert size_of([torch.zeros(2, 3), {"a": (1, 1)}, "text"]) == 9
    assert size_of(1000) > size_of(3) >= 1
