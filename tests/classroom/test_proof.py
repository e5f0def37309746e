"""Passing needs proof: answers that are none gain no point on any notebook of the course, however they fail.

Each notebook's kernels are started once, and every variant replaces all of its code answers in turn.
"""

import ast
import asyncio
import socket

import pytest
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbgrader import utils

from course_lib.classroom import cells, examine, kernels
from course_lib.classroom.gradebook import load
from course_lib.classroom.kernels import Ran
from course_lib.classroom.sandbox import NOTEBOOKS, Limits
from tests.classroom.mini import mini, needs_bwrap, submission

MASTERS = load(NOTEBOOKS)
LIMITS = Limits(output=1 << 18, cell_seconds=20)

# variant -> (what every function does, what every other answer is)
RAISES = {
    "lone surrogate": ("raise ValueError(chr(0xd800))", "chr(0xd800)"),
    "lone surrogate in a class's name": ("raise type('x' + chr(0xd800), (Exception,), {})('no')", "[chr(0xdfff)]"),
    "large text": ("raise ValueError('x' * 2_000_000)", "'x' * 2_000_000"),
    "large class name": ("raise type('x' * 140_000, (BaseException,), {})('no')", "{'x' * 140_000: 1}"),
    "large text in many": ("raise ValueError(*['x' * 100_000] * 9)", "['x' * 100_000] * 9"),
    "no message": ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()", "{chr(0xd800): chr(0xd801)}"),
    "system exit": ("raise SystemExit(0)", "(None,) * 3"),
    "interrupt": ("raise KeyboardInterrupt(chr(0xd800))", "float('nan')"),
    "end of an iteration": ("raise StopIteration", "b''"),
    "end of a generator": ("raise GeneratorExit", "''"),
    "syntax": ("raise SyntaxError('no', ('f', 1, 1, chr(0xd800) * 9, 1, 1))", "set()"),
    "warning": ("raise DeprecationWarning('x' * 1_999)", "True"),
    "usage": ("import IPython\n    raise IPython.core.error.UsageError('no')", "0"),
    "group": ("raise BaseExceptionGroup('no', [ValueError(chr(0xd800))])", "-1e308"),
    "recursion": ("return f(*a, **k)", "10**4000"),
    "deep": ("x = []\n    for _ in range(9_999):\n        x = [x]\n    return x", "[[[[]]]]"),
    "endless number": ("return 10 ** 100_000", "frozenset()"),
    "nothing": ("return None", "None"),
    "itself": ("return f", "float('inf')"),
    "large result": ("return 'x' * 3_000_000", "bytes(3_000_000)"),
    "lone surrogate as a result": ("return [chr(0xd800)]", "[[chr(0xd800)]]"),
    "escapes": ("raise ValueError('\\x1b[2J\\x00' * 500)", "'\\x1b[2J\\x00'"),
}


def replaced(master: NotebookNode, variant: str) -> str:
    """A cell that gives each name of the answers what the variant has in its place."""
    does, other = RAISES[variant]
    sources = [cell.source for cell in master.cells if cell.cell_type == "code" and utils.is_solution(cell)]
    defined = {
        node.name for source in sources for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    lines = [f"def f(*a, **k):\n    {does}\n"]
    lines += [f"{name} = {'f' if name in defined else other}" for name in cells.answer_names(master)]
    return "\n".join(lines)


async def gained(master: NotebookNode, sources: dict[str, str]) -> dict[str, float]:
    """Points for each source, run in place of all answers."""
    merged, _ = cells.merge(master, master)
    tests = [cell for cell in merged.cells if cells.is_test(cell)]
    points, outcome = {}, examine.Outcome(merged)
    here, there = socket.socketpair()
    async with (
        kernels.start(LIMITS, pass_fds=(here.fileno(),)) as student,
        kernels.start(LIMITS, pass_fds=(there.fileno(),)) as judge,
    ):
        session = examine._Session(master, outcome, LIMITS, student, judge, here.fileno(), there.fileno())
        here.close(), there.close()
        await session._prepare_judge()
        for cell in filter(cells.is_setup, merged.cells):
            assert (await student.run(cell.source, LIMITS.seconds)).ok
        for name, source in sources.items():
            ran = await student.run(source)
            assert ran.ok, ran.error
            for cell in tests:
                outcome.unmarked = [cells.grade_id(cell)]
                await session._test(cell)
            points[name] = sum(utils.determine_grade(cell)[0] for cell in tests)
    return points


@needs_bwrap
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", MASTERS)
def test_no_answer_that_is_none_gains_a_point(unit):
    master = MASTERS[unit]
    points = asyncio.run(gained(master, {variant: replaced(master, variant) for variant in RAISES}))
    assert points == dict.fromkeys(RAISES, 0)


@needs_bwrap
def test_the_same_on_a_small_notebook_and_its_right_answers_keep_their_points():
    variants = {variant: replaced(mini(), variant) for variant in RAISES}
    right = {"right": "def double(x):\n    return x + x\nhalf = 1 / 2", "warns": "import warnings\nhalf = 0.5\ndef double(x):\n"
             "    warnings.warn('old', DeprecationWarning)\n    return 2 * x"}  # fmt: skip
    assert asyncio.run(gained(mini(), variants | right)) == dict.fromkeys(variants, 0) | dict.fromkeys(right, 10)


def error(name: str = "ValueError") -> NotebookNode:
    from nbformat.v4 import new_output

    return new_output("error", ename=name, evalue="", traceback=[])


def test_silence_is_failure():
    """Every way in which the kernel's word can be missing: the outputs that nbgrader reads hold an error then."""
    from nbformat.v4 import new_code_cell, new_output

    given = new_output("execute_result", data={"text/plain": "5"}, execution_count=1)
    noise = new_output("stream", name="stderr", text="a warning")
    for ok, outputs, passes in (
        (True, [], True), (True, [noise], True), (True, [given], True), (False, [], False), (False, [noise], False),
        (False, [given], False), (True, [error()], False), (False, [error()], False),
    ):  # fmt: skip
        cell = new_code_cell("", outputs=examine._proven(Ran(new_code_cell("", outputs=outputs), ok)))
        cell.metadata.nbgrader = dict(grade=True, solution=False, points=5, grade_id="t", schema_version=3)
        assert utils.determine_grade(cell) == (5 if passes else 0, 5)


@pytest.mark.parametrize("lost", ["the judge", "the student's kernel", "time"])
def test_a_test_that_was_not_run_is_a_failed_one(lost, monkeypatch):
    """Whatever ends a submission before its first test: all of its tests hold an error, and no mark counts."""
    merged, _ = cells.merge(mini(), submission())

    async def ends(*_):
        if lost == "time":
            await asyncio.Event().wait()
        raise DeadKernelError(lost) if lost == "the judge" else RuntimeError(lost)

    monkeypatch.setattr(examine, "_examine", ends)
    limits = Limits(seconds=0.1)
    if lost == "time":
        outcome = examine.examine(mini(), merged, limits=limits, sandboxed=False)
        assert outcome.status == "timed out" and not outcome.scored and len(outcome.unmarked) == 3
    else:
        with pytest.raises((DeadKernelError, RuntimeError), match=lost):
            examine.examine(mini(), merged, limits=limits, sandboxed=False)
    for cell in filter(cells.is_test, merged.cells):
        assert utils.determine_grade(cell)[0] == 0


def test_no_mark_counts_where_the_kernels_were_not_found_intact_afterwards():
    outcome = examine.Outcome(mini())
    assert not outcome.scored
    outcome.checked = True
    assert outcome.scored
    outcome.close("timed out", "late")
    assert outcome.scored and outcome.status == "timed out"
    outcome.flag("crashed", "its kernel died while it was being taken down")
    assert outcome.status == "timed out" and outcome.reasons == ["late"]
    outcome.unmarked = ["test-1"]
    assert not outcome.scored
