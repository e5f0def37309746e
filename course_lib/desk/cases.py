"""The smallest case that an answer fails: what it was called with, what came, and what was expected.

A test that has failed is run once more with its assertions taken apart. They note what they compare, and go on where they would
end the test, so that of all failing cases the smallest can be told. The test itself is never shown.
"""

import ast
import contextlib
import functools
import operator
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from course_lib.desk.describing import describe, size_of

OPERATORS = {  # of a comparison: what it computes, what it expects of the value on its left, and of the one on its right
    "Eq": (operator.eq, "{}", "{}"),
    "NotEq": (operator.ne, "anything but {}", "anything but {}"),
    "LtE": (operator.le, "at most {}", "at least {}"),
    "Lt": (operator.lt, "less than {}", "more than {}"),
    "GtE": (operator.ge, "at least {}", "at most {}"),
    "Gt": (operator.gt, "more than {}", "less than {}"),
    "Is": (operator.is_, "{}", "{}"),
}
AGREE = {"allclose", "isclose", "equal", "array_equal"}  # functions that compare their first two arguments
ATTEMPTS = 3  # a test may draw other random cases, and pass


@dataclass
class Case:
    """One case that failed; empty texts are not known."""

    call: str = ""  # the answer's call, or its value
    came: str = ""
    expected: str = ""
    hint: str = ""  # the test's own message
    size: int = 0  # numbers in the arguments

    def to_dict(self) -> dict:
        """Return the case in terms of JSON."""
        return asdict(self)


def is_stub(error: BaseException) -> bool:
    """Return whether an exception is the one that stands in an answer which is still empty."""
    return isinstance(error, NotImplementedError) and (not str(error) or str(error).startswith("Exercise "))


def smallest(source: str, names: dict[str, Any], answers: set[str]) -> Case | None:
    """Run a test that has failed once more, and return the smallest case that fails; None where it passes now.

    Args:
        source: the test.
        names: what it may use; it is run in a copy.
        answers: the names among them that are the reader's.

    Raises:
        NotImplementedError: the answer is still empty.
    """
    for _ in range(ATTEMPTS):
        watch = _Watch(names, answers)
        watch.run(source)
        if watch.cases:
            return min(watch.cases, key=lambda case: case.size)
    return None


class _Watch:
    """A test's run: the answer's last call, and the cases that have failed."""

    def __init__(self, names: dict[str, Any], answers: set[str]):
        self.answers, self.cases = answers, []
        self.call, self.came, self.size, self.error = "", "", 0, None
        self.names = dict(names, _course_watch=self)
        for name in answers & set(names):
            if callable(names[name]) and not isinstance(names[name], type):
                self.names[name] = self._noting(name, names[name])
            else:
                self.call = f"{name} = {describe(names[name], 80)}"

    def run(self, source: str) -> None:
        """Runs the test to its end, or to an exception, which is a case too."""
        tree = ast.fix_missing_locations(_Apart(self.answers).visit(ast.parse(source)))
        try:
            exec(compile(tree, "<test>", "exec"), self.names)
        except (Exception, SystemExit) as error:
            if is_stub(error):
                raise
            if not self.cases:
                said = f"{type(error).__name__}: {_first_line(error)}".rstrip(": ")
                if error is self.error:  # it comes from the answer
                    self.cases.append(Case(self.call, said + _where(error), size=self.size))
                elif isinstance(error, AssertionError):
                    self.cases.append(Case(self.call, self.came, hint=_first_line(error), size=self.size))
                else:
                    self.cases.append(Case(self.call, self.came, hint=f"the test could not go on: {said}", size=self.size))

    def _noting(self, name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def noting(*positional: Any, **named: Any) -> Any:
            written = [describe(value) for value in positional]
            written += [f"{key}={describe(value)}" for key, value in named.items()]
            self.call, self.came, self.error = f"{name}({', '.join(written)})", "", None
            self.size = sum(map(size_of, [*positional, *named.values()]))
            try:
                result = function(*positional, **named)
            except (Exception, SystemExit) as error:
                self.error, self.came = error, f"{type(error).__name__}: {_first_line(error)}"
                raise
            self.came = describe(result, 80)
            return result

        return noting

    def compare(self, kind: str, left: Callable, right: Callable, came: str, hint: Callable) -> bool:
        """Evaluates a comparison; `came` says which side is the answer's: 'left', 'right', or '' where that is not known."""
        sides = left(), right()
        function, on_left, on_right = OPERATORS[kind]
        if function(*sides):
            return True
        values = dict(left=(sides[0], on_left, sides[1]), right=(sides[1], on_right, sides[0])).get(came)
        return self._fail(hint, values and describe(values[0], 80), values and values[1].format(describe(values[2], 80)))

    def agree(self, first: Callable, second: Callable, test: Callable, came: str, hint: Callable) -> bool:
        """Evaluates a function that compares two values."""
        sides = first(), second()
        if test(*sides):
            return True
        pair = dict(left=sides, right=sides[::-1]).get(came)
        return self._fail(hint, pair and describe(pair[0], 80), pair and describe(pair[1], 80))

    def holds(self, test: Callable, hint: Callable) -> bool:
        """Evaluates any other condition."""
        return bool(test()) or self._fail(hint)

    def _fail(self, hint: Callable, came: str | None = None, expected: str | None = None) -> bool:
        said = ""
        with contextlib.suppress(Exception):  # a message that cannot be made is none
            said = describe(hint(), 200).strip("'\"") if hint() is not None else ""
        if came in ("True", "False"):  # of a helper of the test
            came = expected = None
        self.cases.append(Case(self.call, came or self.came, expected or "", said, self.size))
        return False


class _Apart(ast.NodeTransformer):
    """Turns each assertion into calls of the watch."""

    def __init__(self, answers: set[str]):
        self.answers = set(answers)

    def visit_Module(self, module: ast.Module) -> ast.AST:
        """Finds which names depend on the answer, before anything is taken apart."""
        before = -1
        while before < len(self.answers):
            before = len(self.answers)
            for node in ast.walk(module):
                self._follow(node)
        return self.generic_visit(module)

    def _follow(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value and self._depends(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self.answers |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        if isinstance(node, ast.For | ast.comprehension) and self._depends(node.iter):
            self.answers |= {name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)}
        if isinstance(node, ast.FunctionDef) and any(map(self._depends, node.body)):
            self.answers.add(node.name)

    def _depends(self, node: ast.AST) -> bool:
        return any(isinstance(name, ast.Name) and name.id in self.answers for name in ast.walk(node))

    def _came(self, left: ast.expr, right: ast.expr) -> ast.Constant:
        depends = self._depends(left), self._depends(right)
        return ast.Constant({(True, False): "left", (False, True): "right"}.get(depends, ""))

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Leaves alone an assertion that assigns, which it could not from within a function."""
        if any(isinstance(part, ast.NamedExpr | ast.Await | ast.Yield) for part in ast.walk(node)):
            return node
        parts = node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And) else [node.test]
        hint = _later(node.msg or ast.Constant(None))
        calls = [self._taken_apart(part, hint) for part in parts]
        whole = ast.BoolOp(ast.And(), calls) if len(calls) > 1 else calls[0]
        return ast.copy_location(ast.Expr(whole), node)

    def _taken_apart(self, test: ast.expr, hint: ast.expr) -> ast.Call:
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]).__name__ in OPERATORS:
            left, right = test.left, test.comparators[0]
            kind = ast.Constant(type(test.ops[0]).__name__)
            return _watched("compare", kind, _later(left), _later(right), self._came(left, right), hint)
        if isinstance(test, ast.Call) and len(test.args) > 1 and getattr(test.func, "attr", "") in AGREE:
            first, second, *rest = test.args
            again = ast.Call(test.func, [ast.Name("_a", ast.Load()), ast.Name("_b", ast.Load()), *rest], test.keywords)
            both = _later(again, "_a", "_b")
            return _watched("agree", _later(first), _later(second), both, self._came(first, second), hint)
        return _watched("holds", _later(test), hint)


def _later(value: ast.expr, *parameters: str) -> ast.Lambda:
    empty = ast.arguments(posonlyargs=[], args=[ast.arg(name) for name in parameters], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Lambda(empty, value)


def _watched(method: str, *arguments: ast.expr) -> ast.Call:
    watch = ast.Attribute(ast.Name("_course_watch", ast.Load()), method, ast.Load())
    return ast.Call(watch, list(arguments), [])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _where(error: BaseException) -> str:
    """The line of the answer that an exception comes from, where Python knows its text."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if frame.line and "course_lib" not in frame.filename]
    cell = [frame for frame in own if "ipykernel" in frame.filename or frame.filename.startswith("<ipython")]
    return f", in the line `{cell[-1].line.strip()[:80]}`" if cell else ""
