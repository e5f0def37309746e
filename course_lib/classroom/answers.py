"""A student's functions and values, used by tests in another process.

In the kernel that ran the answers, `serve` takes calls. In the kernel that runs the tests, `Answers` puts a stand-in for each
name into the namespace: a function that passes its arguments over and brings the result back, or the value itself. What the
call changed in its arguments is changed in the test's arguments too; an iterator is drawn on step by step. So a test works
as if the answer were beside it, and a student's code finds no test beside it.
"""

import base64
import builtins
import secrets
import socket
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle

from course_lib.classroom.fingerprint import fingerprint
from course_lib.classroom.wire import BrokenWire, Channel, clean, decode, encode, restore, state


class Stream:
    """Stands for an iterator that stays with the test."""


def serve(descriptor: int, names: dict[str, Any]) -> None:
    """Answers the requests that come over the socket `descriptor`, until one says that no more will come.

    Args:
        descriptor: of the inherited socket; it stays open.
        names: where the answers are: the notebook's namespace.
    """
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        while (request := channel.receive())["do"] != "done":
            number = {"id": request["id"]}
            try:
                channel.send(globals()[f"_serve_{request['do']}"](channel, request, names) | number)
            except BaseException as error:  # SystemExit and KeyboardInterrupt too: the next request may go better
                channel.send(_told(error) | number)
    finally:
        channel.connection.detach()


def _told(error: BaseException) -> dict:
    """What the test learns of an exception, whatever is wrong with the exception itself."""
    kinds = [clean(kind.__name__, 200) for kind in type(error).__mro__]
    try:
        message, trace = clean(error, 2000), clean("".join(traceback.format_exception(error))[-2000:], 2000)
    except BaseException:  # its `__str__` fails
        message = trace = "(no message)"
    return {"error": kinds, "message": message, "trace": trace}


def _serve_names(channel: Channel, request: dict, names: dict[str, Any]) -> dict:
    """What stands behind each name: something to call, or a value."""
    found = {}
    for name in request["names"]:
        if callable(names.get(name)):
            found[name] = ["call"]
        elif name in names:
            try:
                found[name] = ["value", encode(names[name])]
            except TypeError as reason:
                found[name] = ["unfit", str(reason)]
    return {"found": found}


def _serve_fingerprint(channel: Channel, request: dict, names: dict[str, Any]) -> dict:
    return {"found": fingerprint(names)}


def _serve_call(channel: Channel, request: dict, names: dict[str, Any]) -> dict:
    """Calls a function; gives its result and the arguments that it changed."""
    positional, named = cloudpickle.loads(base64.b64decode(request["arguments"]))
    positional = [_draw(channel) if isinstance(value, Stream) else value for value in positional]
    before = _states(positional, named)
    result = encode(names[request["name"]](*positional, **named))
    after = _states(positional, named)
    return {"result": result, "changed": {key: value for key, value in after.items() if value != before[key]}}


def _states(positional: list, named: dict[str, Any]) -> dict[str, Any]:
    """The states of a call's arguments, by place or name."""
    states = {}
    for key, value in [*enumerate(positional), *named.items()]:
        try:
            states[str(key)] = state(value)
        except TypeError:  # a list of what cannot be told
            states[str(key)] = None
    return states


def _draw(channel: Channel) -> Iterator:
    """The items of an iterator on the other side, which learns of each item when nobody here holds it any more."""
    gone: list[int] = []
    number = 0
    while True:
        told, gone[:] = list(gone), []
        channel.send({"next": number, "gone": told})
        reply = channel.receive()
        if "item" not in reply:
            return
        item = cloudpickle.loads(base64.b64decode(reply["item"]))
        try:
            weakref.finalize(item, gone.append, number)
        except TypeError:  # ints and the like have no weak references
            gone.append(number)
        number += 1
        yield item
        del item


class Answers:
    """The answers, as seen from the tests.

    Args:
        descriptor: of the inherited socket.
        seconds: that the calls of one test cell may take together.
    """

    def __init__(self, descriptor: int, seconds: float):
        self.channel = Channel(socket.socket(fileno=descriptor))
        self.channel.connection.settimeout(seconds)
        self.seconds, self.deadline = seconds, 0.0
        self.reference: dict[str, str] = {}

    def remember(self, space: dict[str, Any]) -> None:
        """Takes what the code of libraries and notebook is now for what it should be."""
        self.reference = fingerprint(space)

    def bind(self, space: dict[str, Any], names: Iterable[str]) -> None:
        """Puts what the answers define now into `space`, under their names, and takes out what they do not define."""
        self.deadline = time.monotonic() + self.seconds
        for name in names:
            space.pop(name, None)
        found = self._ask({"do": "names", "names": list(names)})["found"]
        for name in names:
            kind, *value = found.get(name, ["none"])
            try:
                if kind == "call":
                    space[name] = self._function(name)
                elif kind == "value":
                    space[name] = decode(value[0])
                elif kind == "unfit":
                    raise BrokenWire(value[0])
            except BrokenWire as reason:  # the name is missing then; the other answers are there
                print(f"{name}: {clean(reason, 200)}")

    def differences(self) -> list[str]:
        """Names of what has another code there than `remember` saw here; those of the notebook itself as `__main__:name`."""
        self.deadline = time.monotonic() + self.seconds
        there = self._ask({"do": "fingerprint"})["found"]
        return sorted(name for name, mark in self.reference.items() if there.get(name, mark) != mark)

    def done(self) -> None:
        """Says that no request will come for now."""
        self.channel.send({"do": "done"})

    def _function(self, name: str) -> Callable:
        def answer(*positional, **named):
            __tracebackhide__ = True  # IPython leaves the frame out of what it prints
            return self._call(name, positional, named)

        answer.__name__ = answer.__qualname__ = name
        return answer

    def _call(self, name: str, positional: tuple, named: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        streams = [value for value in positional if isinstance(value, Iterator)]
        sent = [Stream() if isinstance(value, Iterator) else value for value in positional]
        arguments = base64.b64encode(cloudpickle.dumps((sent, named))).decode()
        reply = self._ask({"do": "call", "name": name, "arguments": arguments}, streams)
        if "error" in reply:
            error = _exception(reply["error"], reply.get("message"))
            error.add_note(f"In the answer:\n{clean(reply.get('trace'), 2000)}")
            raise error
        for key, changed in reply["changed"].items():
            restore(named[key] if key in named else positional[int(key)], changed)
        return decode(reply["result"])

    def _ask(self, request: dict, streams: list[Iterator] = ()) -> dict:
        """Sends a request and waits for its reply; what answers an older request is dropped."""
        number, held = secrets.token_hex(8), {}
        self.channel.send(request | {"id": number})
        while (reply := self.channel.receive(self.deadline)).get("id") != number:
            if "next" in reply and streams:
                self._next(streams[0], held, reply)
        return reply

    def _next(self, stream: Iterator, held: dict[int, Any], request: dict) -> None:
        """Sends the stream's next item, and holds it for as long as the other side does."""
        for gone in request["gone"]:
            held.pop(gone, None)
        try:
            held[request["next"]] = next(stream)
        except BaseException as end:
            self.channel.send({"stop": True})
            if not isinstance(end, StopIteration):  # a check in the test's own iterator
                raise
        else:
            self.channel.send({"item": base64.b64encode(cloudpickle.dumps(held[request["next"]])).decode()})


def _exception(kinds: Any, message: Any) -> Exception:
    """The exception of the answer, as the nearest of Python's own."""
    kinds, message = [clean(kind, 200) for kind in list(kinds)[:100]], clean(message, 2000)
    for kind in kinds:
        found = getattr(builtins, kind, None)
        ends_loops = kind in ("StopIteration", "StopAsyncIteration")
        if isinstance(found, type) and issubclass(found, Exception) and not ends_loops:
            try:
                return found(message)
            except TypeError:  # UnicodeDecodeError and the like want more than a message
                continue
    return RuntimeError(f"{kinds[0]}: {message}")
