"""Values in a few words: what a function was called with and what came back."""

import math
from collections.abc import Iterator
from typing import Any

FEW, LONGEST = 12, 52  # numbers and characters of an array that is written out


def describe(value: Any, room: int = 60) -> str:
    """Return a value as text of at most `room` characters: small ones whole, of large arrays the shape.

    >>> describe([1, 0.123456789, "a"])
    "[1, 0.123457, 'a']"
    """
    text = _written(value)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _written(value: Any, depth: int = 0) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool | int | str | bytes | None):
        return repr(value)
    if depth > 4:
        return "…"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key)}: {_written(item, depth + 1)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        text = ", ".join(_written(item, depth + 1) for item in value)
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
        return f"{opening}{text}{',' if isinstance(value, tuple) and len(value) == 1 else ''}{closing}"
    if _is_array(value):
        return _array(value, depth)
    return _other(value)


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numpy or a tensor of torch, without importing either."""
    return all(hasattr(value, name) for name in ("shape", "dtype", "tolist"))


def _array(value: Any, depth: int) -> str:
    kind = "tensor" if hasattr(value, "detach") else "array"
    shape = tuple(value.shape)
    if not shape:
        return _written(value.tolist(), depth + 1)
    text = f"{kind}({_written(value.tolist(), depth + 1)})" if math.prod(shape) <= FEW else ""
    if text and len(text) <= LONGEST:
        return text
    return f"{kind} of shape {shape}, {str(value.dtype).removeprefix('torch.')}"


def _other(value: Any) -> str:
    name = getattr(value, "__name__", None)
    if isinstance(value, Iterator):
        return "an iterator"
    if callable(value) and isinstance(name, str):
        return name
    return f"a {type(value).__name__}"


def size_of(value: Any) -> int:
    """Return how many numbers a value holds; what is no collection counts as one."""
    if _is_array(value):
        return math.prod(tuple(value.shape))
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return sum(map(size_of, value))
    return max(1, abs(value).bit_length()) if type(value) is int else 1
