"""A file decoded in a process of its own, with limits on time and memory, so that no file can hold up or end the class."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np

from course_lib.challenge.entry import LARGEST, MOST_WEIGHTS, Entry, check, decoded
from course_lib.classroom import sandbox
from course_lib.classroom.sandbox import Limits
from course_lib.classroom.text import printable
from course_lib.files import ROOT

CPU_SECONDS = 60  # of computing; as many weights as are allowed take about ten
LIMITS = Limits(memory=1 << 30, disk=8 << 20, seconds=10 * CPU_SECONDS)  # seconds by the clock, on a busy machine
HEADER = 1 << 16  # bytes of a reply before its numbers


def decode(content: bytes, *, sandboxed: bool) -> Entry:
    """Return the network in a file's content, decoded in another process.

    Args:
        content: of the file.
        sandboxed: whether that process runs in the sandbox of grading; its limits hold in either case.

    Raises:
        ValueError: as `entry.decoded`; or it took more time or memory than is allowed.
    """
    if len(content) > LARGEST:
        raise ValueError(f"the file has more than {LARGEST:,} bytes")
    command = [sys.executable, "-m", "course_lib.challenge"]
    command = sandbox.command(command, LIMITS) if sandboxed else command
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with tempfile.TemporaryFile() as answer:  # a file, whose size is limited, and no pipe
        try:
            done = subprocess.run(
                command, input=content, stdout=answer, stderr=subprocess.DEVNULL, env=environment, timeout=LIMITS.seconds
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"decoding was ended after {LIMITS.seconds:g} seconds") from None
        answer.seek(0)
        reply = answer.read(HEADER + 4 * MOST_WEIGHTS)
    if done.returncode:
        raise ValueError(f"decoding was ended: it took more than {CPU_SECONDS} seconds or {LIMITS.memory >> 20} MiB, or crashed")
    return _received(reply)


def main() -> None:
    """Reads a file's content from the standard input, decodes it within the limits, and writes the network to the output."""
    _limit()
    try:
        network = decoded(sys.stdin.buffer.read(LARGEST + 1))
    except MemoryError:  # to say so takes memory: the interpreter may try for minutes
        os._exit(1)
    except ValueError as reason:
        reply = _line(error=str(reason))
    else:
        shapes = {name: tensor.shape for name, tensor in network.tensors.items()}
        numbers = [tensor.astype("<f4").tobytes() for tensor in network.tensors.values()]
        reply = b"".join([_line(network=network.network, shapes=shapes), *numbers])
    sys.stdout.buffer.write(reply)


def _limit() -> None:
    """Sets the limits of this process, as far as the system has them: Windows has none, macOS not all."""
    with contextlib.suppress(ImportError):
        import resource

        limits = {"RLIMIT_CPU": CPU_SECONDS, "RLIMIT_DATA": LIMITS.memory, "RLIMIT_FSIZE": LIMITS.disk, "RLIMIT_CORE": 0}
        for name, value in limits.items():
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (value, value))


def _line(**told: object) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _received(reply: bytes) -> Entry:
    """The network in a reply, of which nothing is believed: a hostile file might have taken the process over."""
    line, _, numbers = reply.partition(b"\n")
    match _parsed(line):
        case {"error": str(reason)}:
            raise ValueError(printable(reason))
        case {"network": str(network), "shapes": {**shapes}} if all(map(_is_shape, shapes.values())):
            check(network, shapes)
        case _:
            raise ValueError("decoding crashed")
    tensors, at = {}, 0
    for name, shape in shapes.items():
        tensors[name] = np.frombuffer(numbers, "<f4", math.prod(shape), at).astype(np.float32).reshape(shape)
        at += tensors[name].nbytes
    return Entry(network, tensors)


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line[:HEADER])
    except (ValueError, RecursionError):
        return None


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**40 for n in shape)
