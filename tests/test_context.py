"""The coder 'context' and its file: what is saved comes back, in fewer bytes than the entropy, and damage is refused."""

import math
import random
import time
import tracemalloc
from binascii import crc_hqx

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import masks, models, plans, storage
from course_lib.coding import compact, context
from course_lib.storage import CodedTensor, CompressedNetwork, CorruptFileError
from tests import test_setup

NO_GAPS = torch.zeros(0, dtype=torch.int32)
shapes = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9))


def random_levels(shape: tuple[int, ...], most: int, zeros: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < zeros, 0, rng.integers(-most, most + 1, shape))


def entropy_bytes(levels: np.ndarray) -> float:
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def coded(levels: np.ndarray, step: float = 1.0) -> CodedTensor:
    """A tensor of these levels, each worth a step; its codebook has all levels between the lowest and the highest."""
    lowest, highest = min(0, int(levels.min(initial=0))), max(0, int(levels.max(initial=0)))
    codebook = torch.arange(lowest, highest + 1).float() * np.float32(step)
    return CodedTensor(torch.Size(levels.shape), codebook, torch.from_numpy(levels.reshape(-1) - lowest).int(), NO_GAPS, 0)


def pruned(name: str, rate: float) -> dict[str, np.ndarray]:
    """Levels of a trained network of which the largest weights are left, not retrained."""
    model, found = models.pretrained(name, "mnist"), {}
    for layer, sparsity in plans.lamp(model, rate).items():
        weight = masks.weight_layers(model)[layer].weight.detach()
        threshold = weight.abs().flatten().quantile(sparsity) if weight.numel() < 2**24 else 0
        kept = torch.where(weight.abs() > threshold, weight, 0)
        step = 0.7 * kept[kept != 0].abs().mean()
        levels = (kept / step).round() + kept.sign() * ((kept / step).abs() < 0.5)
        found[f"{layer}.weight"] = levels.int().numpy()
    return found


def network(levels: dict[str, np.ndarray], name: str = "") -> CompressedNetwork:
    return CompressedNetwork(name, {key: coded(value) for key, value in levels.items()}, "context")


def same(a: CodedTensor | torch.Tensor, b: CodedTensor | torch.Tensor) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    equal = a.shape == b.shape and torch.equal(a.codes.long(), b.codes.long()) and b.index_bits == 0
    return equal and a.codebook.numpy().tobytes() == b.codebook.numpy().tobytes()


# The coder


@settings(max_examples=150, deadline=None)
@given(
    given_shapes=st.lists(shapes, max_size=3), most=st.sampled_from([0, 1, 3, 20, 100_000]),
    zeros=st.sampled_from([0, 0.5, 0.95]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_levels_come_back(given_shapes, most, zeros, seed):
    tensors = [random_levels(shape, most, zeros, seed) for shape in given_shapes]
    content = context.encode(tensors)
    found, taken = context.decode(content, given_shapes)
    assert all(np.array_equal(a, b) for a, b in zip(tensors, found, strict=True)) and sum(taken) == len(content)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), places=st.sampled_from([1, 4, 9]), most=st.integers(1, 4),
    zeros=st.sampled_from([0, 0.5, 0.9, 0.99]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_independent_levels_take_hardly_more_than_their_entropy(rows, columns, places, most, zeros, seed):
    levels = random_levels((rows, columns, places), most, zeros, seed)  # there is nothing that a context could find out
    assert len(context.encode([levels])) <= 1.02 * entropy_bytes(levels) + 32


def test_real_networks_take_less_than_their_entropy():
    for name, rate in (("lenet-300-100", 60), ("lenet-5", 100)):
        levels = pruned(name, rate)
        content = storage.encode(network(levels))
        least = sum(entropy_bytes(values) for values in levels.values())
        assert len(content) < 0.92 * least, (name, len(content), least)


def test_a_repeated_row_is_cheap():
    row = random_levels((1, 200, 1), 3, 0.5, 0)
    repeated = np.repeat(row, 40, 0)
    assert len(context.encode([repeated])) < 0.5 * entropy_bytes(repeated)


def test_probabilities_are_those_of_the_logistic_function():
    squash, stretch = context._tables()
    odds = np.arange(-context.END, context.END + 1) / context.STEP
    assert np.allclose(np.array(squash) / context.ONE, 1 / (1 + np.exp(-odds)), atol=2e-5)
    chances = (np.arange(4096) + 0.5) / 4096
    assert np.allclose(np.array(stretch)[20:-20] / context.STEP, np.log(chances / (1 - chances))[20:-20], atol=0.01)


def test_the_bytes_are_the_same_on_every_machine():
    numbers = np.arange(140)
    levels = ((7 * numbers**2 + 3 * numbers) % 13 - 6).reshape(7, 5, 4)
    levels[abs(levels) > 3] = 0
    assert context.encode([levels, 20 * levels[:2]]).hex() == GOLDEN


def test_the_file_is_the_same_as_ever():
    codes = CodedTensor(torch.Size([2, 3]), torch.tensor([0, 0.5, 1]), torch.tensor([0, 1, 2, 0, 0, 1]), NO_GAPS, 0)
    content = storage.encode(CompressedNetwork("", {"fc1.weight": codes, "fc1.bias": torch.ones(2)}, "context"))
    assert content == test_setup.SECOND_VERSION


GOLDEN = (
    "be1a6917fcc0f7b35216c405674358a5d7ec822f8fe683f69e53d7ea68b968d6ed33752c78c6b091d2a517b18fbe586a60e8"
    "8cb3525651a9efd1b16477ec563127eebf139b61ef7a988d2dae130d32e9e62b35"
)


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 8, bytes(range(40))])
def test_a_stream_that_is_none_ends(content):
    try:
        found, _ = context.decode(content, [(50, 50, 1)])
    except ValueError:
        return
    assert found[0].shape == (50, 50, 1)


def test_more_levels_than_bytes_can_hold_are_refused_at_once():
    started = time.process_time()
    with pytest.raises(ValueError, match="100 bytes cannot hold 4000000000 levels"):
        context.decode(bytes(100), [(200_000, 20_000, 1)])
    assert time.process_time() - started < 0.1


# The file


@st.composite
def tensors(draw) -> CodedTensor | torch.Tensor:
    shape = draw(st.lists(st.integers(0, 6), max_size=4))
    seed, kind = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(["ones", "half", "single", "listed", "raw"]))
    rng = np.random.default_rng(seed)
    if kind == "raw":
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.int64]))
        return torch.from_numpy(rng.integers(-5, 5, shape)).to(dtype)
    if kind == "listed":
        k = draw(st.sampled_from([1, 2, 17, 300]))
        codebook = torch.from_numpy(rng.standard_normal(k).astype(np.float32))
        codes = torch.from_numpy(rng.integers(0, k, math.prod(shape))).int()
        return CodedTensor(torch.Size(shape), codebook, codes, NO_GAPS, 0)
    step = {"ones": 1.0, "half": 0.0123291015625, "single": 0.1}[kind]
    return coded(random_levels(tuple(shape), draw(st.sampled_from([0, 1, 5, 40])), 0.5, seed), step)


@settings(max_examples=150, deadline=None)
@given(found=st.dictionaries(st.text(max_size=5), tensors(), max_size=4), name=st.text(max_size=8))
def test_what_is_saved_comes_back(tmp_path_factory, found, name):
    path = tmp_path_factory.getbasetemp() / "context.bin"
    storage.save(CompressedNetwork(name, found, "context"), path)
    loaded = storage.load(path)
    assert (loaded.network, loaded.coder, list(loaded.tensors)) == (name, "context", list(found))
    assert all(same(found[key], loaded.tensors[key]) for key in found)
    table = storage.inspect(path)
    columns = [column for column in table if column.startswith("bytes of") or column == "raw bytes"]
    assert table[columns].to_numpy().sum() + table.attrs["header bytes"] == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "widths", "shapes"),
    [
        ("lenet-5", (8, 20, 60), {"conv1": (8, 1, 5, 5), "conv2": (20, 8, 5, 5), "fc1": (60, 320), "fc2": (10, 60)}),
        ("lenet-300-100", (80, 200), {"fc1": (80, 784), "fc2": (200, 80), "fc3": (10, 200)}),
    ],
)
def test_the_header_of_a_known_network_is_its_widths(tmp_path, name, widths, shapes):
    model = models.build(name)
    assert [key for layer in shapes for key in (f"{layer}.weight", f"{layer}.bias")] == list(model.state_dict())
    levels = {}
    for layer, shape in shapes.items():
        levels |= {f"{layer}.weight": random_levels(shape, 2, 0.9, 0), f"{layer}.bias": random_levels(shape[:1], 2, 0.5, 1)}
    storage.save(network(levels, name), tmp_path / "small")
    loaded = storage.load(tmp_path / "small")
    assert loaded.network == name and {key: tuple(t.shape) for key, t in loaded.tensors.items()} == {
        key: value.shape for key, value in levels.items()
    }
    assert storage.inspect(tmp_path / "small").attrs["header bytes"] == 4 + len(widths) + (widths[-1] > 127) + 2


def test_gaps_are_refused(tmp_path):
    tensor = CodedTensor(torch.Size([4]), torch.tensor([0.0, 1.0]), torch.tensor([1]), torch.tensor([2]), 2)
    with pytest.raises(ValueError, match="tensor 'w' has 2 index bits; coder 'context' takes 0"):
        storage.save(CompressedNetwork("", {"w": tensor}, "context"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Damage


@pytest.fixture
def content() -> bytes:
    levels = {"conv1.weight": random_levels((4, 1, 5, 5), 3, 0.5, 0), "conv1.bias": random_levels((4,), 2, 0.5, 1)}
    found = network(levels, "example")
    extra = {
        "scale": torch.arange(3.0),
        "listed": CodedTensor(torch.Size([4]), torch.tensor([0.3, -0.1]), torch.tensor([0, 1, 1, 0]), NO_GAPS, 0),
    }
    return storage.encode(CompressedNetwork("example", found.tensors | extra, "context"))


def read(content: bytes, folder) -> CompressedNetwork | None:
    """What a file holds, or None where it is refused."""
    path = folder / "damaged"
    path.write_bytes(content)
    try:
        return storage.load(path)
    except CorruptFileError:
        return None


def test_flipped_bits_cuts_and_additions_are_seen(content, tmp_path):
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert read(bytes(flipped), tmp_path) is None, bit
    for length in range(len(content)):
        assert read(content[:length], tmp_path) is None, length
    assert read(content + b"\0", tmp_path) is None


def test_random_edits_behind_a_right_checksum_are_refused_or_well_formed(content, tmp_path):
    draw, refused = random.Random(0), 0
    tracemalloc.start()
    started = time.process_time()
    for _ in range(2_000):
        body = bytearray(content[3:])
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(body))
            match draw.randrange(3):
                case 0:
                    body[place] = draw.randrange(256)
                case 1:
                    body.insert(place, draw.randrange(256))
                case _:
                    del body[place]
        forged = bytes([compact.FIRST_BYTE]) + crc_hqx(bytes(body), 0).to_bytes(2, "little") + bytes(body)
        loaded = read(forged, tmp_path)
        refused += loaded is None
        if loaded is not None:
            assert all(torch.isfinite(t.decode()).numel() >= 0 for t in loaded.tensors.values() if isinstance(t, CodedTensor))
            storage.encode(loaded)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < refused < 2_000 and peak < 100e6 and seconds < 120


def test_claims_of_a_header_are_not_believed(tmp_path):
    for body in (
        b"\x01\xff\xff\x7f\xff\xff\x7f\xff\xff\x7f",
        b"\x02\xff\xff\xff\x7f\x01",
        b"\x03",
        b"\x00\xff\xff\xff\xff\xff\xff\xff",
    ):
        content = bytes([compact.FIRST_BYTE]) + crc_hqx(body, 0).to_bytes(2, "little") + body
        started = time.process_time()
        assert read(content, tmp_path) is None
        assert time.process_time() - started < 0.5
