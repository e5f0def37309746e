"""Values and messages between the kernel that answers and the kernel that tests.

What comes from the answering side is decoded from a closed list of plain types, into exactly these types: no code runs at
decoding, and an object that claims to equal everything arrives as what it is made of. What goes to it is pickled by value.
"""

import base64
import json
import math
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # imported where tensors are in use: an import of torch takes seconds
    import torch

LARGEST = 256 << 20  # bytes of a message
LONGEST = 1 << 20  # characters of a text
PLAIN = (type(None), bool, int, float, str)
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class BrokenWire(Exception):
    """The other side is gone, late, or does not speak the protocol."""


def encode(value: Any) -> Any:
    """`value` in terms of JSON.

    Allowed are None, bool, int, float, str, bytes; lists, tuples, sets and dicts of allowed values; tensors; arrays and scalars
    of numpy with a numeric type. Instances of subclasses are taken for what they derive from.

    Raises:
        TypeError: anything else.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, bytes):
        return ["bytes", _text(value)]
    if _is(value, "Tensor"):
        import torch

        flat = value.detach().cpu().contiguous().reshape(-1)
        content = _text(flat.view(torch.uint8).numpy().tobytes())
        return ["tensor", str(value.dtype).removeprefix("torch."), list(value.shape), content]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return [kind, value.dtype.str, list(value.shape), _text(np.ascontiguousarray(value).tobytes())]
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in value.items()]]
    allowed = "allowed are numbers, text, tensors, arrays and lists of these"
    raise TypeError(f"a {type(value).__name__} cannot be handed over; {allowed}")


def decode(data: Any) -> Any:
    """The value that `encode` made `data` from.

    Raises:
        BrokenWire: `data` is nothing that `encode` makes.
    """
    if isinstance(data, str):
        return _sound(data)
    if isinstance(data, PLAIN):
        return data
    try:
        kind, *rest = data
        if kind in SEQUENCES:
            return SEQUENCES[kind](decode(item) for item in rest[0])
        if kind == "dict":
            return {decode(key): decode(item) for key, item in rest[0]}
        if kind == "bytes":
            return base64.b64decode(rest[0])
        dtype, shape, content = rest[0], tuple(map(int, rest[1])), base64.b64decode(rest[2])
        if min(shape, default=0) < 0:
            raise BrokenWire(f"a shape {shape}")
        if kind == "tensor":
            return _tensor(dtype, shape, content)
        array = np.frombuffer(content, _numeric(dtype)).reshape(shape).copy()
        return array if kind == "array" else array[()]
    except BrokenWire:
        raise
    except Exception as reason:
        raise BrokenWire(f"what the answer gave cannot be read: {reason!r}") from None


def _sound(text: str) -> str:
    """A text that can be shown: a kernel that fails over one it cannot encode, or cannot send, sends no error at all."""
    if len(text) > LONGEST:
        raise BrokenWire(f"a text of {len(text):,} characters; allowed are {LONGEST:,}")
    if clean(text, LONGEST) != text:
        raise BrokenWire("a text with lone surrogates, which is none")
    return text


def clean(text: Any, limit: int) -> str:
    """What the other side told, for a message: at most `limit` characters, lone surrogates spelt out."""
    return str(text)[:limit].encode("utf-8", "backslashreplace").decode()


def _is(value: Any, kind: str) -> bool:
    """Whether `value` is a 'Tensor' or a 'Module' of torch, without an import of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor if kind == "Tensor" else torch.nn.Module)


def _tensor(dtype: str, shape: tuple[int, ...], content: bytes) -> "torch.Tensor":
    import torch

    dtype = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}[dtype]
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def _numeric(dtype: str) -> np.dtype:
    found = np.dtype(dtype)
    if found.kind not in "biufc":
        raise BrokenWire(f"an array of type {dtype!r}")
    return found


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def state(value: Any) -> Any:
    """What a call can change in an argument, encoded; None where that is nothing that can be told."""
    if _is(value, "Module"):
        return encode(_tensors(value))
    return encode(value) if _is(value, "Tensor") or isinstance(value, np.ndarray | list | dict | set) else None


def restore(value: Any, data: Any) -> None:
    """Brings a changed argument into the `state` that came back.

    Raises:
        BrokenWire: the state does not fit the argument.
    """
    new = decode(data)
    try:
        if _is(value, "Module"):
            _restore_module(value, new)
        elif _is(value, "Tensor"):
            value.data.copy_(new)
        elif isinstance(value, dict | set):
            value.clear()
            value.update(new)
        else:
            value[:] = new
    except (TypeError, ValueError, RuntimeError, KeyError) as reason:
        raise BrokenWire(f"the call changed its argument to what it cannot be: {reason!r}") from None


def _tensors(module: "torch.nn.Module") -> dict[str, "torch.Tensor"]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _restore_module(module: "torch.nn.Module", new: dict[str, "torch.Tensor"]) -> None:
    for name, old in _tensors(module).items():
        owner, _, leaf = name.rpartition(".")
        if name in new:
            old.data.copy_(new[name])
        else:
            setattr(module.get_submodule(owner), leaf, None)
    if unknown := set(new) - set(_tensors(module)):
        raise ValueError(f"new tensors {unknown}")


class Channel:
    """Messages, each a dict for JSON, over a connected socket; a length of eight bytes goes before each."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def send(self, message: dict) -> None:
        """Raises BrokenWire where the other side is gone; ValueError or RecursionError, with nothing sent, where JSON cannot."""
        content = json.dumps(message).encode()
        try:
            self.connection.sendall(len(content).to_bytes(8, "big") + content)
        except OSError as reason:
            raise BrokenWire(f"the other kernel is gone ({reason})") from None

    def receive(self, deadline: float = math.inf) -> dict:
        """The next message; `deadline` on the clock `time.monotonic`.

        Raises:
            BrokenWire: it does not come whole and in time, or is no JSON object.
        """
        size = int.from_bytes(self._exactly(8, deadline), "big")
        if size > LARGEST:
            raise BrokenWire(f"a message of {size:,} bytes; allowed are {LARGEST:,}")
        try:
            message = json.loads(self._exactly(size, deadline))
        except (ValueError, RecursionError) as reason:
            raise BrokenWire(f"a message is no JSON ({reason})") from None
        if not isinstance(message, dict):
            raise BrokenWire("a message is no object")
        return message

    def _exactly(self, size: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            if not select.select([self.connection], [], [], left)[0]:
                raise BrokenWire("the answer took too long")
            try:
                part = self.connection.recv(min(size - len(parts), 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise BrokenWire("the kernel of the answers has died")
            parts += part
        return bytes(parts)
