"""Answers in one process, tests in another: values cross whole, and as nothing but values."""

import json
import os
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from course_lib import scale  # noqa: F401, one of the watched modules
from course_lib.classroom import wire
from course_lib.classroom.answers import Answers, serve
from course_lib.classroom.wire import BrokenWire, Channel, decode, encode

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.integers() | st.text() | st.tuples(st.integers(), st.booleans())
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner) | st.frozensets(st.integers()),
    max_leaves=8,
)


def crossed(value):
    return decode(json.loads(json.dumps(encode(value))))


@given(VALUES)
def test_values_arrive_as_they_were(value):
    arrived = crossed(value)
    assert arrived == value and type(arrived) is type(value)


@given(arrays(st.sampled_from(["f4", "f8", "i8", "u1", "?", "c16"]), array_shapes(min_dims=0, min_side=0)))
def test_arrays_arrive_as_they_were(array):
    arrived = crossed(array)
    assert arrived.dtype == array.dtype and arrived.shape == array.shape and arrived.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float64, torch.uint8])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_tensors_arrive_as_they_were(dtype, shape):
    tensor = (torch.rand(shape) * 10).to(dtype).T if len(shape) == 2 else (torch.rand(shape) * 10).to(dtype)
    arrived = crossed(tensor.requires_grad_() if dtype.is_floating_point else tensor)
    assert arrived.dtype == tensor.dtype and arrived.shape == tensor.shape and torch.equal(arrived, tensor.detach())


def test_what_claims_to_equal_everything_arrives_as_what_it_is():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class LyingList(list):
        def __eq__(self, other):
            return True

    assert type(crossed(Liar(7))) is int and crossed(Liar(7)) != 8
    assert type(crossed(LyingList([1]))) is list and crossed(LyingList([1])) != [2]


@pytest.mark.parametrize("value", [object(), print, nn.Linear(1, 1), np.array([object()]), [{"a": object()}], 1j, slice(1)])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match="cannot be handed over"):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [["tensor", "float32", [3], ""], ["array", "O", [1], "AAAAAAAAAAA="], ["tensor", "nn", [0], ""], ["eval", "1"], [], {"a": 1}]
    + [["dict", [[["list", []], 1]]], ["array", "<f8", [-1], ""], ["tensor", "float32", [1 << 60], ""], ["pickle", "gASVAAAA"]],
)
def test_forged_data_is_refused(data):
    with pytest.raises(BrokenWire):
        decode(data)


@contextmanager
def answers(names: dict, seconds: float = 20):
    """Test's side, with the answers served by a thread."""
    here, there = socket.socketpair()
    server = threading.Thread(target=serve, args=(here.fileno(), names), daemon=True)
    server.start()
    asking = Answers(os.dup(there.fileno()), seconds)
    try:
        yield asking
        asking.done()
        server.join(20)
        assert not server.is_alive()
    finally:
        asking.channel.connection.close()
        here.close(), there.close()


def test_functions_are_called_and_values_fetched():
    def swap(a, b=None, *, c=1):
        return b, a, c

    space = dict(gone="from before")
    with answers(dict(swap=swap, plan=dict(fc1=0.5), odd=object())) as asking:
        asking.bind(space, ["swap", "plan", "gone", "odd"])
        assert space.keys() == {"swap", "plan"} and space["plan"] == {"fc1": 0.5}
        assert space["swap"](torch.ones(2), b=[1], c="x")[0] == [1]
        assert space["swap"](1) == (None, 1, 1)


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (ValueError("no"), ValueError),
        (SystemExit(0), RuntimeError),
        (StopIteration(), Exception),
        (KeyboardInterrupt(), RuntimeError),
    ]
    + [(type("Mine", (KeyError,), {})("k"), KeyError), (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), ValueError)],
)
def test_exceptions_arrive_as_the_nearest_of_pythons_own(raised, arrives):
    def fails():
        raise raised

    space = {}
    with answers(dict(fails=fails)) as asking:
        asking.bind(space, ["fails"])
        with pytest.raises(arrives) as caught:
            space["fails"]()
        assert not isinstance(caught.value, StopIteration)  # which would end a test's loop instead of failing it


def test_changes_to_arguments_come_back():
    def change(tensor, array, items, table, layer):
        tensor += 1
        array[0] = 7
        items.append(3)
        table.pop("a")
        layer.weight.data.zero_()
        layer.bias = None

    space, layer = {}, nn.Linear(2, 2)
    given = torch.zeros(3), np.zeros(2), [1], {"a": 1, "b": 2}, layer
    with answers(dict(change=change)) as asking:
        asking.bind(space, ["change"])
        assert space["change"](*given) is None
    assert given[0].tolist() == [1, 1, 1] and given[1].tolist() == [7, 0] and given[2] == [1, 3] and given[3] == {"b": 2}
    assert layer.bias is None and not layer.weight.any()


def test_what_is_only_read_stays_the_same_object():
    space, layer, tensor = {}, nn.BatchNorm1d(2), torch.rand(3, 2)
    weight, before = layer.weight, tensor.clone()
    with answers(dict(read=lambda layer, tensor: layer(tensor).sum())) as asking:
        asking.bind(space, ["read"])
        layer.eval()
        space["read"](layer, tensor)
    assert layer.weight is weight and torch.equal(tensor, before)


def test_an_iterator_is_drawn_on_step_by_step_and_its_items_are_let_go():
    import weakref

    def batches(alive, most):
        for _ in range(20):
            alive.append(weakref.ref(batch := torch.ones(4)))
            yield batch
            assert sum(ref() is not None for ref in alive) <= most, "batches are kept"

    space = {}
    with answers(dict(total=lambda items: sum(float(b.sum()) for b in items), hoard=lambda items: len(list(items)))) as asking:
        asking.bind(space, ["total", "hoard"])
        assert space["total"](batches([], 3)) == 80
        with pytest.raises(AssertionError, match="batches are kept"):
            space["hoard"](batches([], 3))
        assert space["hoard"](iter(range(5))) == 5


def test_silence_death_and_noise_are_told():
    here, there = socket.socketpair()
    asking = Answers(there.fileno(), 0.2)
    with pytest.raises(BrokenWire, match="too long"):
        asking.bind({}, ["x"])
    Channel(here).send({"id": "forged", "found": {"x": ["value", 1]}})
    with pytest.raises(BrokenWire, match="too long"):  # an answer to no question
        asking.bind({}, ["x"])
    here.sendall((wire.LARGEST + 1).to_bytes(8, "big"))
    with pytest.raises(BrokenWire, match="allowed are"):
        asking.bind({}, ["x"])
    here.close()
    with pytest.raises(BrokenWire, match="died|gone"):
        asking.bind({}, ["x"])


def test_changed_code_is_told(monkeypatch):
    space = dict(np=np, helper=lambda x: x + 1)
    with answers(dict(np=np, helper=lambda x: x + 2, mine=3)) as asking:
        asking.remember(space)
        assert asking.differences() == ["__main__:helper"]
        monkeypatch.setattr(torch, "allclose", lambda *a, **k: True)
        monkeypatch.setattr("course_lib.classroom.answers.socket", None)  # the classroom itself is not watched
        monkeypatch.setattr("course_lib.scale.pick", lambda **k: 1)
        assert asking.differences() == ["__main__:helper", "course_lib.scale:pick", "torch:allclose"]
