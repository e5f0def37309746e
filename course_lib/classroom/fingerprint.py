"""What the code of the libraries is, so that a changed function can be told."""

import hashlib
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

WATCHED = ("builtins", "torch", "torch.nn.functional", "torch.linalg", "torch.testing", "numpy", "numpy.linalg", "numpy.testing")
LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    str(Path(__file__).parent.parent),
)


def fingerprint(names: dict[str, Any]) -> dict[str, str]:
    """For each function and class that a test may use, 'module:name' -> a mark of its code.

    Looks at `WATCHED`, at the methods of tensors, at all loaded modules of the course, and, as module `__main__`, at `names`.
    """
    marks = {f"__main__:{name}": _mark(value) for name, value in list(names.items()) if not name.startswith("_")}
    for name, module in list(sys.modules.items()):
        if name in WATCHED or (name.startswith("course_lib.") and not name.startswith("course_lib.classroom")):
            for attribute, value in list(vars(module).items()):
                if callable(value):
                    marks[f"{name}:{attribute}"] = _mark(value)
    tensor = getattr(sys.modules.get("torch"), "Tensor", object)
    for attribute, value in list(vars(tensor).items()):
        marks[f"torch.Tensor:{attribute}"] = _mark(value)
    return marks


def _mark(value: Any) -> str:
    """A module by name, a function by its code, a class by its methods' code, anything else by its type.

    A library's function goes by its name alone: torch wraps some of its own when parts of it are first imported.
    """
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, types.FunctionType):
        return f"function {value.__name__ if value.__code__.co_filename.startswith(LIBRARIES) else _code(value.__code__)}"
    if isinstance(value, type) and value.__module__.startswith("course_lib."):
        return f"class {value.__qualname__} " + " ".join(f"{name} {_mark(part)}" for name, part in sorted(vars(value).items()))
    return f"{type(value).__name__} {getattr(value, '__qualname__', '')}"


def _code(code: types.CodeType) -> str:
    constants = [_constant(part) for part in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:16]


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)  # a set has no order of its own
