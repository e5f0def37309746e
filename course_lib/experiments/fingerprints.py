"""A fingerprint of the code and the budget behind a row: other code or another budget, another fingerprint.

It covers the function that makes the row, what that calls in its own module, in other experiments, in the papers' modules, in
`methods`, `smallest` and `distillation`, and the constants that these read. Comments, docstrings and the order of definitions do
not count. The rooms below (surgery, storage, training, ...) do not count either: they have tests of their own, and most of their
changes move no figure.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

FOLLOWED = ("course_lib.experiments", "course_lib.papers", "course_lib.methods", "course_lib.smallest", "course_lib.distillation")


def fingerprint(module: str, setting: Mapping[str, Any], scale: str) -> str:
    """Return 12 hex digits for the row of a setting.

    Args:
        module: dotted name of an experiments module; its `KINDS` maps kinds to functions, without it all rows are made by `run`.
        setting: an entry of its grid.
        scale: its `budget(scale)` counts too.
    """
    loaded = importlib.import_module(module)
    function = getattr(loaded, "KINDS", {}).get(setting.get("kind")) or loaded.run
    budget = loaded.budget(scale) if hasattr(loaded, "budget") else None
    facts = json.dumps([setting, budget], sort_keys=True, default=str)
    parts = [facts, *sorted(_closure(function.__module__, function.__name__))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@functools.cache
def _closure(module: str, name: str) -> frozenset[str]:
    """The normalised source of a definition and of all that it reads, directly or not."""
    found: dict[tuple[str, str], str] = {}
    waiting = [(module, name)]
    while waiting:
        place = waiting.pop()
        definition = _definitions(place[0]).get(place[1])
        if definition is None or place in found:
            continue
        found[place] = _written(definition)
        waiting += _read_by(place[0], definition)
    return frozenset(found.values())


@functools.cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """The functions, classes and constants of a module by name, without docstrings and annotations."""
    tree = _Bare().visit(ast.parse(inspect.getsource(importlib.import_module(module))))
    named: dict[str, ast.stmt] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            named[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            named |= {node.id: statement for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return named


# What some versions of Python note in a tree and others do not; it says nothing that the rest does not say
_NOTES = {"ctx", "kind", "type_comment", "type_params"}


def _written(node: object) -> str:
    """A tree as text that is the same in every version of Python; those of `ast.unparse` and `ast.dump` are not."""
    if isinstance(node, ast.AST):
        fields = (f"{name}={_written(value)}" for name, value in ast.iter_fields(node) if name not in _NOTES)
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_written, node))}]"
    return repr(node)


def _read_by(module: str, definition: ast.stmt) -> Iterator[tuple[str, str]]:
    """(module, name) of what a definition reads, in its own module and, by `alias.name` or an imported name, in others."""
    space = vars(importlib.import_module(module))
    for node in ast.walk(definition):
        if isinstance(node, ast.Name):
            value = space.get(node.id)
            origin = getattr(value, "__module__", None) if callable(value) else None
            imported = bool(origin) and origin != module and origin.startswith(FOLLOWED)
            yield (origin, value.__name__) if imported else (module, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other = space.get(node.value.id)
            if isinstance(other, ModuleType) and other.__name__.startswith(FOLLOWED):
                yield other.__name__, node.attr


class _Bare(ast.NodeTransformer):
    """Takes out what moves no figure: docstrings and annotations."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        for argument in [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]:
            argument.annotation = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._without_docstring(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        return node if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)

    def _without_docstring(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.copy_location(ast.Pass(), node)]
        return node
