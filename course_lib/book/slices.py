"""What a cell of a notebook stands on: the few statements above it that make the names it uses."""

import ast
from collections.abc import Iterable
from typing import Any

Statements = list[ast.stmt]


def cell_value(above: Iterable[str], source: str, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what the last line of a cell is worth, and all names, after running only the statements that it stands on.

    Statements that change an object in place without naming it on their left side, such as a training loop, are not seen: a
    panel starts from networks and data as they were loaded.

    Args:
        above: the sources of the code cells above, in their order.
        source: of the cell; its last statement is an expression.
        given: names that have their values already, whatever the notebook does to make them.
    """
    *before, last = needed([ast.parse(text).body for text in above], ast.parse(source).body, set(given))
    names = dict(given)
    exec(compile(ast.Module(before, []), "<cells above>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names), names


def needed(above: Iterable[Statements], cell: Statements, given: set[str]) -> Statements:
    """Return the statements of a cell, and in front of them those above it that make names it uses."""
    wanted, kept = set(), []
    for statement in reversed([*(statement for statements in above for statement in statements), *cell]):
        made = _made(statement) - given
        if statement in cell or made & wanted:
            wanted = (wanted - made) | _used(statement)
            kept.insert(0, statement)
    return kept


def _used(statement: ast.stmt) -> set[str]:
    """Names that a statement reads, without those that live only in its loops."""
    inner = {
        name for node in ast.walk(statement) if isinstance(node, ast.comprehension | ast.For) for name in _stored(node.target)
    }
    read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - inner


def _made(statement: ast.stmt) -> set[str]:
    """Names that a statement makes."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    inner = {id(node.target) for node in ast.walk(statement) if isinstance(node, ast.comprehension)}
    return _stored(statement, inner)


def _stored(node: ast.AST, without: set[int] = frozenset()) -> set[str]:
    """Names that are assigned to in a node, but not in the nodes of these ids."""
    if id(node) in without:
        return set()
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    return set().union(*(_stored(child, without) for child in ast.iter_child_nodes(node)))
