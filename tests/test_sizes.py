"""What fits on a screen: modules of at most 300 lines, functions of at most 40, with at most 8 parameters."""

import ast
from collections.abc import Iterator
from pathlib import Path

from course_lib.files import ROOT

LINES, BODY, PARAMETERS = 300, 40, 8
# The arguments of a whole training run, and the settings of a whole method beside what all methods take
MANY_PARAMETERS = {
    "course_lib/training/fitting.py: fit",
    "course_lib/papers/channel_pruning.py: prune",
    "course_lib/papers/deep_compression.py: compress_network",
    "course_lib/papers/thinet.py: prune",
}


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "course_lib").rglob("*.py")):
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, source in modules():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}: {node.name}", node


def body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines without the docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    return node.end_lineno - node.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len(given) - (bool(given) and given[0].arg in ("self", "cls"))


def test_a_module_is_about_one_idea():
    assert {str(path): source.count("\n") for path, source in modules() if source.count("\n") > LINES} == {}


def test_a_function_fits_on_a_screen():
    assert {name: body(node) for name, node in functions() if body(node) > BODY} == {}


def test_a_function_has_few_parameters():
    many = {name: parameters(node) for name, node in functions() if parameters(node) > PARAMETERS}
    assert {name: count for name, count in many.items() if name not in MANY_PARAMETERS} == {}
