"""The compressed file: what is saved comes back bit by bit, takes the bytes it should, and damage of any kind is refused."""

import heapq
import json
import math
import pickle
import random
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import coding, models, storage
from course_lib.coding import coders, reading
from course_lib.storage import CodedTensor, CompressedNetwork, CorruptFileError

CODERS = ("fixed", "huffman", "ans")
PREFIX = struct.Struct("<4sBII")  # magic, version, length of the header, its CRC-32


def relative(places: list[int], codes: list[int], bits: int, filler: int) -> tuple[list[int], list[int]]:
    """Codes and gaps with fillers, step by step."""
    out, gaps, last = [], [], -1
    for place, code in zip(places, codes, strict=True):
        while place - last > 2**bits:
            last += 2**bits
            out.append(filler)
            gaps.append(2**bits)
        out.append(code)
        gaps.append(place - last)
        last = place
    return out, gaps


def sparse(shape: tuple[int, ...], kept: float, k: int, bits: int, seed: int = 0, end: bool = False) -> CodedTensor:
    """A random sparse tensor; the last of the k values in its codebook is 0; bits 0 stores every weight."""
    rng = np.random.default_rng(seed)
    codebook = torch.from_numpy(rng.standard_normal(k).astype(np.float32))
    codebook[-1] = 0.0
    chosen = rng.random(math.prod(shape)) < (kept if bits else 1)
    if end and chosen.size:
        chosen[-1] = True
    codes = np.minimum(rng.geometric(min(1.0, 4 / k), int(chosen.sum())) - 1, k - 1)  # far from uniform, as in the paper
    places = np.flatnonzero(chosen)
    codes, gaps = relative(places.tolist(), codes.tolist(), bits, k - 1) if bits else (codes.tolist(), [])
    return CodedTensor(torch.Size(shape), codebook, torch.tensor(codes).int(), torch.tensor(gaps).int(), bits)


def dense(tensor: CodedTensor) -> torch.Tensor:
    """What `decode` should give, entry by entry."""
    weights = [0.0] * math.prod(tensor.shape)
    place = -1
    for i, code in enumerate(tensor.codes.tolist()):
        place += int(tensor.gaps[i]) if tensor.index_bits else 1
        weights[place] = tensor.codebook[code].item()
    return torch.tensor(weights, dtype=torch.float32).reshape(tensor.shape)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def same(a: CompressedNetwork, b: CompressedNetwork) -> bool:
    def same_tensors(x, y) -> bool:
        if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor):
            return isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and same_bytes(x, y)
        equal = torch.equal(x.codes.long(), y.codes.long()) and torch.equal(x.gaps.long(), y.gaps.long())
        return equal and same_bytes(x.codebook, y.codebook) and (x.shape, x.index_bits) == (y.shape, y.index_bits)

    heads = (a.network, a.coder, list(a.tensors)) == (b.network, b.coder, list(b.tensors))
    return heads and all(same_tensors(a.tensors[name], b.tensors[name]) for name in a.tensors)


def written(path: Path, tensors: dict, coder: str, network: str = "") -> CompressedNetwork:
    compressed = CompressedNetwork(network, tensors, coder)
    storage.save(compressed, path)
    return compressed


def example(coder: str, seed: int = 0) -> CompressedNetwork:
    """Some 400 bytes: a conv's weight, its bias, a constant one, one without gaps."""
    tensors = {
        "conv.weight": sparse((4, 3, 5, 5), 0.2, 17, 3, seed),
        "conv.bias": torch.arange(4.0) + seed,
        "scale": CodedTensor(torch.Size([5]), torch.tensor([1.5 + seed]), torch.zeros(2).int(), torch.tensor([2, 2]), 1),
        "dense": sparse((3, 4), 1, 5, 0, seed),
    }
    return CompressedNetwork("example", tensors, coder)


# Round trips


@st.composite
def coded_tensors(draw) -> CodedTensor:
    shape = draw(st.one_of(st.lists(st.integers(0, 7), max_size=4), st.lists(st.integers(0, 3000), min_size=1, max_size=1)))
    kept = draw(st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]))
    k = draw(st.sampled_from([1, 2, 3, 16, 17, 256, 257, 1000]))
    return sparse(tuple(shape), kept, k, draw(st.integers(0, 16)), draw(st.integers(0, 2**32 - 1)), draw(st.booleans()))


@settings(max_examples=150)
@given(tensors=st.dictionaries(st.text(max_size=5), coded_tensors(), max_size=3), coder=st.sampled_from(CODERS), name=st.text())
def test_what_is_saved_comes_back(tmp_path_factory, tensors, coder, name):
    path = tmp_path_factory.getbasetemp() / "network.bin"
    compressed = written(path, tensors, coder, name)
    loaded = storage.load(path)
    assert same(compressed, loaded)
    assert all(same_bytes(loaded.state_dict()[key], dense(tensor)) for key, tensor in tensors.items())


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize(
    "tensor",
    [
        sparse((), 1, 2, 4),
        sparse((0, 3), 1, 2, 4),
        sparse((70_000,), 0, 2, 16, end=True),  # one entry, behind a filler
        sparse((5,), 1, 1, 1),
        sparse((3000,), 1, 2**16, 8),
        sparse((200_000,), 0.00005, 4, 16),
        CodedTensor(torch.Size([9]), torch.tensor([-0.0, math.nan]), torch.tensor([0, 1, 0]).byte(), torch.tensor([1, 2, 6]), 3),
    ],
)
def test_extremes_come_back(tmp_path, coder, tensor):
    compressed = written(tmp_path / "x.bin", {"w": tensor}, coder)
    loaded = storage.load(tmp_path / "x.bin")
    assert same(compressed, loaded)
    assert same_bytes(loaded.state_dict()["w"], dense(tensor))


@pytest.mark.parametrize("coder", CODERS)
def test_raw_tensors_come_back_bit_by_bit(tmp_path, coder):
    odd = torch.tensor([0x7FC01234, 0x7F800001, -1, -(2**31), 0x7F800000], dtype=torch.int32)  # NaNs with payloads, -0, inf
    tensors = {
        "nan": odd.view(torch.float32),
        "half": torch.tensor([0x7E01, -(2**15), 1], dtype=torch.int16).view(torch.float16),
        "count": torch.tensor(2**63 - 1),
        "turned": torch.arange(6.0).view(2, 3).T,
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    assert same(written(tmp_path / "x.bin", tensors, coder), storage.load(tmp_path / "x.bin"))


def test_the_gaps_of_the_papers_figure_2():
    codes, gaps = torch.tensor([0, 1, 3, 2]), torch.tensor([1, 3, 8, 3])  # its places are 1, 4 and 15, counted from 1
    tensor = CodedTensor(torch.Size([4, 4]), torch.tensor([3.4, 0.9, 1.7, 0]), codes, gaps, 3)
    weights = tensor.decode()
    assert weights.flatten().nonzero().flatten().tolist() == [0, 3, 14]
    assert same_bytes(weights, dense(tensor))


@pytest.mark.parametrize("coder", CODERS)
def test_a_network_runs_as_before(tmp_path, coder):
    model = models.build("lenet-300-100")
    tensors = {name: sparse(p.shape, 0.1, 32, 5) if p.dim() > 1 else p for name, p in model.state_dict().items()}
    model.load_state_dict(written(tmp_path / "x.bin", tensors, coder).state_dict())
    images = models.example_input("lenet-300-100", 2)
    before = model(images)
    model.load_state_dict(storage.load(tmp_path / "x.bin").state_dict())
    assert torch.equal(model(images), before)


# Sizes


def sections(data: bytes) -> tuple[list, list[list[bytes]]]:
    """The header, and the parts of each tensor."""
    _, _, length, _ = PREFIX.unpack_from(data)
    header = json.loads(zlib.decompress(data[PREFIX.size : PREFIX.size + length], wbits=-15))
    at, parts = PREFIX.size + length, []
    for row in header[2]:
        parts.append([])
        for size in row[4]:
            parts[-1].append(data[at : at + size])
            at += size
    return header, parts


@pytest.mark.parametrize(("k", "bits"), [(1, 1), (2, 2), (3, 5), (32, 5), (33, 8), (256, 3), (257, 16)])
def test_fixed_takes_the_bits_of_the_formula(tmp_path, k, bits):
    tensor = sparse((40, 50), 0.1, k, bits)
    written(tmp_path / "x.bin", {"w": tensor, "b": torch.zeros(40)}, "fixed")
    data = (tmp_path / "x.bin").read_bytes()
    entries = len(tensor.codes)
    streams = math.ceil(entries * math.ceil(math.log2(k)) / 8) + math.ceil(entries * bits / 8)
    assert len(data) == 13 + PREFIX.unpack_from(data)[2] + 4 * k + streams + 4 * 40


def optimal_bits(counts: list[int]) -> int:
    """Of a Huffman code: the sum of the weights of all inner nodes."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        node = heapq.heappop(heap) + heapq.heappop(heap)
        total += node
        heapq.heappush(heap, node)
    return total


def ideal_bits(counts: list[int]) -> float:
    return sum(count * math.log2(sum(counts) / count) for count in counts if count)


@settings(max_examples=100)
@given(counts=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 3000)), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_huffman_is_optimal(counts, seed):
    symbols = torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)))
    table, stream = coders.CODERS["huffman"].encode(symbols, 60)
    assert len(stream) == math.ceil(optimal_bits([count for count in counts if count]) / 8)
    assert ideal_bits(counts) <= 8 * len(stream) + 1e-6 and 8 * len(stream) <= ideal_bits(counts) + len(symbols) + 7
    assert np.array_equal(coders.CODERS["huffman"].decode(table, stream, 60, len(symbols)), symbols)


def test_huffman_on_counts_that_ask_for_words_of_32_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 33:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    symbols = torch.from_numpy(np.repeat(np.arange(33, dtype=np.uint8), fibonacci))
    table, stream = coders.CODERS["huffman"].encode(symbols, 33)
    assert np.array_equal(coders.CODERS["huffman"].decode(table, stream, 33, len(symbols)), symbols)
    assert 8 * len(stream) <= 1.001 * optimal_bits(fibonacci)


@pytest.mark.parametrize(
    "shares", [[1] * 7, [0.99, 0.01], [0.9999, 0.0001], 0.9 ** np.arange(32), 0.97 ** np.arange(256), [1] * 3000]
)
def test_ans_comes_close_to_the_entropy(shares):
    shares = np.array(shares) / np.sum(shares)
    symbols = torch.from_numpy(np.random.default_rng(0).choice(len(shares), 300_000, p=shares))
    table, stream = coders.CODERS["ans"].encode(symbols, len(shares))
    ideal = ideal_bits(symbols.bincount().tolist())
    assert 0.999 * ideal - 8 <= 8 * len(stream) <= 1.01 * ideal + 64
    assert 8 * len(table) <= 24 + 9 * len(shares)
    assert np.array_equal(coders.CODERS["ans"].decode(table, stream, len(shares), len(symbols)), symbols)


@pytest.mark.parametrize("coder", ["huffman", "ans"])
@pytest.mark.parametrize(("symbols", "table"), [([], 0), ([200] * 1000, 3 + 26), ([0] * 1000, 3), ([0, 1, 2, 3] * 9, 3 + 3)])
def test_tables_are_short(coder, symbols, table):
    found, stream = coders.CODERS[coder].encode(torch.tensor(symbols, dtype=torch.int64), 2**8)
    assert len(found) <= table
    assert len(set(symbols)) > 1 or stream == b""


def test_the_bytes_of_version_1():
    """Files of today can be read tomorrow."""
    symbols = torch.tensor([0, 0, 1, 2])  # words 0, 10, 11; table: up to 2, numbers of 1 bit, all occur, 0 1 1
    stored = {
        "fixed": (b"", bytes([0b00_00_01_10])),
        "huffman": (bytes([2, 0, 128 + 1, 0b011_00000]), bytes([0b0_0_10_11_00])),
        "ans": (bytes([2, 0, 128 + 1, 0b100_00000]), bytes([0x0D, 0x00, 0x40, 0x0A])),  # counts 2, 1, 1
    }
    for coder, (table, stream) in stored.items():
        assert coders.CODERS[coder].encode(symbols, 3) == (table, stream)
        assert coders.CODERS[coder].decode(table, stream, 3, 4).tolist() == [0, 0, 1, 2]
    skipping = coders.CODERS["huffman"].encode(torch.tensor([9, 4, 9]), 16)
    assert skipping == (bytes([9, 0, 0, 0b00001000, 0b01_000000]), bytes([0b101_00000]))


@pytest.mark.parametrize("coder", CODERS)
def test_inspect_accounts_for_every_byte(tmp_path, coder):
    compressed = example(coder)
    storage.save(compressed, tmp_path / "x.bin")
    table = storage.inspect(tmp_path / "x.bin")
    parts = ["bytes of codes", "bytes of gaps", "bytes of tables", "bytes of codebook", "raw bytes"]
    assert table[parts].to_numpy().sum() + table.attrs["header bytes"] == (tmp_path / "x.bin").stat().st_size
    assert list(table.index) == list(compressed.tensors)
    row, tensor = table.loc["conv.weight"], compressed.tensors["conv.weight"]
    gaps = Counter(tensor.gaps.tolist())
    assert row["shape"] == (4, 3, 5, 5) and row["weights"] == 300 and row["entries"] == len(tensor.codes)
    assert row["nonzeros"] == dense(tensor).count_nonzero() < row["entries"]
    assert row["index bits"] == 3 and row["codebook entries"] == 17 and row["bytes of codebook"] == 68
    assert row["bits per gap"] == 8 * row["bytes of gaps"] / len(tensor.gaps)
    assert row["entropy per gap"] == pytest.approx(ideal_bits(list(gaps.values())) / len(tensor.gaps))
    assert table.loc["conv.bias", "raw bytes"] == 16 and math.isnan(table.loc["conv.bias", "bits per code"])


@pytest.mark.parametrize(("symbols", "bits"), [([], 0), ([7] * 9, 0), ([1, 2, 3, 4], 2), ([0, 0, 0, 1], 2 - 0.75 * math.log2(3))])
def test_entropy(symbols, bits):
    assert coders.entropy(torch.tensor(symbols)) == pytest.approx(bits)


# Damage


@pytest.fixture(scope="module", params=CODERS)
def file(request, tmp_path_factory) -> tuple[Path, bytes]:
    """Where to put damaged files, and a sound one."""
    path = tmp_path_factory.mktemp("damage") / "network.bin"
    storage.save(example(request.param), path)
    return path, path.read_bytes()


def is_refused(path: Path, data: bytes, max_weights: int = 2**20) -> bool:
    """Whether loading raises CorruptFileError with the name of the file; no other error is caught."""
    path.write_bytes(data)
    try:
        storage.load(path, max_weights)
    except CorruptFileError as error:
        return str(error).startswith("network.bin: ")
    return False


def test_flipped_bits_are_seen(file):
    path, data = file
    rng = random.Random(0)
    header = PREFIX.size + PREFIX.unpack_from(data)[2]
    for bit in [*range(8 * header), *(8 * at + rng.randrange(8) for at in range(header, len(data)))]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert is_refused(path, damaged), bit


def test_every_cut_and_every_byte_too_many_or_too_few_is_seen(file):
    path, data = file
    rng = random.Random(0)
    for at in range(len(data)):
        assert is_refused(path, data[:at]), at
        assert is_refused(path, data[:at] + data[at + 1 :]), at
        assert is_refused(path, data[:at] + rng.randbytes(rng.choice([1, 2, 9])) + data[at:]), at
    assert is_refused(path, data + b"\0")
    assert is_refused(path, data + data)


def test_sections_of_other_files_are_seen(file, tmp_path):
    path, data = file
    header, ours = sections(data)
    storage.save(example(header[1], seed=1), tmp_path / "other.bin")
    other = (tmp_path / "other.bin").read_bytes()
    theirs = sections(other)[1]
    body, other_body = sum(map(len, sum(ours, []))), sum(map(len, sum(theirs, [])))
    assert is_refused(path, data[:-body] + other[-other_body:])
    assert is_refused(path, other[:-other_body] + data[-body:])
    flat, other_flat = sum(ours, []), sum(theirs, [])
    for i, j in np.ndindex(len(flat), len(flat)):
        for spliced in ([*flat[:i], other_flat[j], *flat[i + 1 :]], [*flat[:i], flat[j], *flat[i + 1 :]]):
            assert is_refused(path, data[:-body] + b"".join(spliced)) or spliced[i] == flat[i]


def test_the_message_says_where(file):
    path, data = file
    header, parts = sections(data)
    at = len(data) - sum(map(len, sum(parts, [])))
    for row, pieces in zip(header[2], parts, strict=True):
        for name, piece in zip(reading.RAW if isinstance(row[2], str) else reading.CODED, pieces, strict=True):
            if piece:
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
                with pytest.raises(CorruptFileError, match=f"^network.bin: tensor '{row[0]}': {name}: .*CRC-32.*expected"):
                    storage.load(path)
                with pytest.raises(CorruptFileError, match=f"tensor '{row[0]}': {name}: "):
                    storage.inspect(path)
            at += len(piece)


# Malice: files with right checksums


def sealed(text: bytes | list, parts: list[list[bytes]]) -> bytes:
    """A file with this header, its checksum right."""
    header = zlib.compress(text if isinstance(text, bytes) else json.dumps(text).encode(), 9, wbits=-15)
    return PREFIX.pack(b"CNET", 1, len(header), zlib.crc32(header)) + header + b"".join(sum(parts, []))


def set_to(tensor: int, *path: int, value: object) -> Callable:
    """An edit of the header: an entry of a tensor's row."""

    def edit(header: list, parts: list[list[bytes]]) -> None:
        row = header[2][tensor]
        for step in path[:-1]:
            row = row[step]
        row[path[-1]] = value

    return edit


def part(tensor: int, number: int, change: Callable[[bytes], bytes]) -> Callable:
    """An edit of a section, its length and checksum set right."""

    def edit(header: list, parts: list[list[bytes]]) -> None:
        parts[tensor][number] = data = change(parts[tensor][number])
        header[2][tensor][4][number], header[2][tensor][5][number] = len(data), zlib.crc32(data)

    return edit


def header_edit(change: Callable[[list], object]) -> Callable:
    return lambda header, parts: change(header)


SHAPE, KIND, ENTRIES, LENGTHS = 1, 2, 3, 4
MANY = [[2**26], 3, 2**26]  # shape, kind, entries
FORGERIES: dict[str, tuple[str, str, Callable]] = {  # what: coder, message, edit
    "a huge shape": ("fixed", "weights", set_to(0, SHAPE, 0, value=2**39)),
    "a huge shape of nothing": ("fixed", "weights", set_to(1, SHAPE, value=[0, 2**39, 2**39])),
    "a huge raw shape": ("fixed", "conv.bias.*entries", set_to(1, SHAPE, 0, value=2**39)),
    "many dimensions": ("fixed", "dimensions", set_to(0, SHAPE, value=[1] * 65)),
    "a number beyond 64 bits": ("fixed", "a tensor is", set_to(0, SHAPE, 0, value=10**300)),
    "a number of 5000 digits": ("fixed", "header", header_edit(lambda h: h[2][0][SHAPE].append(12345678901234567))),
    "a negative size": ("fixed", "a tensor is", set_to(0, SHAPE, 0, value=-4)),
    "negative sizes that cancel": ("fixed", "a tensor is", set_to(0, SHAPE, value=[-20, -15])),
    "more entries than weights": ("fixed", "conv.weight.*301 entries for 300", set_to(0, ENTRIES, value=301)),
    "one entry less": ("ans", "codes: behind", set_to(0, ENTRIES, value=68)),
    "one entry more": ("huffman", "gaps lead to place 300", set_to(0, ENTRIES, value=70)),
    "more entries than the stream": ("huffman", "codes: ", set_to(0, ENTRIES, value=300)),
    "many more entries": ("huffman", "expected 67108864", header_edit(lambda h: h[2][0].__setitem__(slice(1, 4), MANY))),
    "more entries than the fixed stream": ("fixed", "codes: .*bytes", set_to(0, ENTRIES, value=300)),
    "fewer entries": ("ans", "codes has 30 bytes; expected 0 to 20", set_to(0, ENTRIES, value=3)),
    "no entries": ("huffman", "codes has 28 bytes; expected 0 to 8", set_to(0, ENTRIES, value=0)),
    "fewer entries than weights without gaps": ("fixed", "dense.*entries", set_to(3, ENTRIES, value=11)),
    "a bool for a size": ("fixed", "a tensor is", set_to(2, ENTRIES, value=True)),
    "a bool for a kind": ("fixed", "scale.*kind", set_to(2, KIND, value=True)),
    "a float": ("fixed", "a tensor is", set_to(0, ENTRIES, value=50.0)),
    "infinity": ("fixed", "a tensor is", set_to(0, ENTRIES, value=math.inf)),
    "NaN": ("fixed", "a tensor is", set_to(0, ENTRIES, value=math.nan)),
    "a word for lengths": ("fixed", "a tensor is", set_to(0, LENGTHS, value="12345")),
    "a name of a wrong type": ("fixed", "a tensor is", set_to(0, 0, value=7)),
    "a dict for a row": ("fixed", "a tensor is", header_edit(lambda h: h[2].__setitem__(0, {"a": 1}))),
    "index bits of 17": ("fixed", "kind is 17", set_to(0, KIND, value=17)),
    "an unknown type": ("fixed", "kind is '<f8'", set_to(1, KIND, value="<f8")),
    "a type of objects": ("fixed", r"kind is '\|O'", set_to(1, KIND, value="|O")),
    "a list for a kind": ("fixed", "kind is", set_to(1, KIND, value=[1])),
    "a raw tensor called coded": ("fixed", "conv.bias", set_to(1, KIND, value=4)),
    "a raw tensor cut": ("fixed", "values has 12 bytes; expected 16 to 16", part(1, 0, lambda data: data[4:])),
    "lengths missing": ("fixed", "4 lengths", set_to(0, LENGTHS, value=[1, 2, 3, 4])),
    "a length beyond the file": ("fixed", "declares a file", set_to(0, LENGTHS, 0, value=10**5)),
    "a length beyond reason": ("fixed", "codes has 1099511627775 bytes", set_to(0, LENGTHS, 2, value=2**40 - 1)),
    "lengths shifted": ("fixed", "CRC-32", header_edit(lambda h: h[2][0].__setitem__(LENGTHS, h[2][0][LENGTHS][::-1]))),
    "one name twice": ("fixed", "same name", set_to(1, 0, value="conv.weight")),
    "an unknown coder": ("fixed", "it is.*expected.*fixed, huffman, ans", header_edit(lambda h: h.__setitem__(1, "zip"))),
    "a list for a coder": ("fixed", "it is", header_edit(lambda h: h.__setitem__(1, []))),
    "another coder": ("fixed", "conv.weight.*codes", header_edit(lambda h: h.__setitem__(1, "huffman"))),
    "too many fields": ("fixed", "it is", header_edit(lambda h: h.append(0))),
    "an empty codebook": ("fixed", "codebook", part(0, 0, lambda data: b"")),
    "a codebook that is too large": ("fixed", "codebook", part(0, 0, lambda data: bytes(4 * 65537))),
    "half a float": ("fixed", "codebook", part(0, 0, lambda data: data[:-2])),
    "codes of 5 bits for 17 values": ("fixed", "codes goes", part(0, 2, lambda data: b"\xff" + data[1:])),
    "places beyond the tensor": ("fixed", "gaps lead to place", part(0, 4, lambda data: b"\xff" * (len(data) - 1) + b"\xe0")),
    "ones in the padding": ("fixed", "dense.*ones behind", part(3, 2, lambda data: data[:-1] + bytes([data[-1] | 1]))),
    "a table where none is": ("fixed", "table", part(0, 1, lambda data: b"\0\0\0")),
    "a table of half a head": ("huffman", "codes: the table has 2 bytes", part(0, 1, lambda data: data[:2])),
    "a table cut": ("huffman", "codes: ", part(0, 1, lambda data: data[:-1])),
    "no table": ("ans", "codes: ", part(0, 1, lambda data: b"")),
    "a table of more symbols": ("ans", "goes up to symbol 17", part(0, 1, lambda data: b"\x11\0\x80")),
    "numbers of 9 bits": ("ans", "9 bits", part(0, 1, lambda data: b"\x01\0\x89\0\0\0")),
    "a last symbol that does not occur": ("ans", "does not occur", part(0, 1, lambda data: b"\x02\0\0\x80")),
    "words that are too few": ("huffman", "no complete code", part(0, 1, lambda data: b"\x01\0\x81\xc0")),  # 2 of 2 bits
    "words that are too many": ("huffman", "no complete code", part(0, 1, lambda data: b"\x02\0\x80")),  # 3 of 1 bit
    "words of 256 bits": ("huffman", "no complete code", part(0, 1, lambda data: b"\x01\0\x88\xff\xff")),
    "a stream cut": ("huffman", "codes: ", part(0, 2, lambda data: data[:-1])),
    "a stream too long": ("huffman", "codes: behind", part(0, 2, lambda data: data + b"\0")),
    "a zero too many": ("ans", "codes: the last byte", part(0, 2, lambda data: data + b"\0")),
    "a word too many": ("ans", "codes: behind", part(0, 2, lambda data: data + b"\1\2\3\4")),
    "bits for one symbol": ("ans", "scale.*codes: 2 symbols, 1 different", part(2, 2, lambda data: b"\1")),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_files_are_refused_at_once(tmp_path, what):
    coder, message, edit = FORGERIES[what]
    path = tmp_path / "network.bin"
    storage.save(example(coder), path)
    header, parts = sections(path.read_bytes())
    path.write_bytes(sealed(header, parts))
    assert same(storage.load(path), example(coder))  # the forger's tools write sound files
    edit(header, parts)
    path.write_bytes(sealed(header, parts))
    check_refused_cheaply(path, message)


def check_refused_cheaply(path: Path, message: str) -> None:
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError, match=message) as caught:
            storage.load(path)
        with pytest.raises(CorruptFileError, match=message):
            storage.inspect(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("network.bin: ") and len(str(caught.value)) < 500
    assert peak < 50e6 and time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 500_000, "no deflated JSON"),
        (b'["","fixed",[' + b"[" * 400 + b"]" * 400 + b"]]", "a tensor is"),
        (b'["","fixed",[' + b"[]," * 300_000 + b"[]]]", "a tensor is"),
        (b'["","fixed",[["a",[' + b"9" * 5000 + b"],1,0,[],[]]]]", "header"),
        (b'["","fixed",[["a",[' + b"1099511627775," * 60_000 + b"1],1,0,[],[]]]]", "60001 dimensions"),
        (b'["","fixed",[["' + b"a" * 900_000 + b'",[3],-1,0,[],[]]]]', "kind is -1"),
        (bytes(10**8), "inflate"),
        (b'"\xff"', "header"),
        (b"\xff\xfe[\0]\0", "header"),
        (b"", "header"),
        (b"{}", "it is {}"),
        (b'["","fixed",[]] ["","fixed",[]]', "header"),
    ],
    ids=["deep", "less deep", "wide", "digits", "dimensions", "long name", "bomb", "latin", "utf-16", "empty", "dict", "two"],
)
def test_headers_that_are_no_headers_are_refused_at_once(tmp_path, text, message):
    path = tmp_path / "network.bin"
    path.write_bytes(sealed(text, []))
    check_refused_cheaply(path, message)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (PREFIX.pack(b"CNET", 2, 0, 0), "version 2; expected b'CNET', version 1"),
        (PREFIX.pack(b"PK\3\4", 1, 0, 0), "begins with b'PK"),
        (PREFIX.pack(b"CNET", 1, 2**32 - 1, 0), "length is 4294967295"),
        (PREFIX.pack(b"CNET", 1, 0, 0), "inflate"),
        (PREFIX.pack(b"CNET", 1, 1, zlib.crc32(b"\xff")) + b"\xff", "header: "),
        (PREFIX.pack(b"CNET", 1, 4, 0) + b"rest", "CRC-32"),
        (b"CNET", "has 4 bytes"),
        (b"", "has 0 bytes"),
    ],
)
def test_other_prefixes_are_refused(tmp_path, prefix, message):
    (tmp_path / "network.bin").write_bytes(prefix)
    check_refused_cheaply(tmp_path / "network.bin", message)


def leaves(value: list, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    for i, item in enumerate(value):
        yield (*path, i)
        if isinstance(item, list):
            yield from leaves(item, (*path, i))


NUMBERS = [0, 1, 2, 5, 16, 17, 255, 2**16, 2**31, 2**40, 2**64, 10**400, -1, 0.5, math.nan]
VALUES = [*NUMBERS, True, None, "", "<f4", "<i8", [], {}, *CODERS]


def is_well_formed(path: Path, data: bytes) -> bool:
    """Loads as a network that can be used and saved again; False where it is refused."""
    if is_refused(path, data):
        return False
    network = storage.load(path, 2**20)
    storage.save(network, path)
    assert same(storage.load(path, 2**20), network)
    assert len(network.state_dict()) == len(network.tensors)
    return True


def test_random_edits_of_the_header_are_refused_or_well_formed(file):
    path, data = file
    rng, sound = random.Random(0), 0
    for _ in range(300):
        header, parts = sections(data)
        for _ in range(rng.choice([1, 1, 2, 4])):
            *steps, last = rng.choice(list(leaves(header)))
            place = header
            for step in steps:
                place = place[step]
            number = type(place[last]) is int and rng.random() < 0.3
            place[last] = place[last] + rng.choice([-1, 1]) if number else rng.choice(VALUES)
        sound += is_well_formed(path, sealed(header, parts))
    assert sound  # a name, for instance


def test_random_edits_of_the_sections_are_refused_or_well_formed(file):
    path, data = file
    rng, sound = random.Random(0), 0
    for _ in range(700):
        header, parts = sections(data)
        tensor = rng.randrange(len(parts))
        number = rng.randrange(len(parts[tensor]))
        size = len(parts[tensor][number])
        at, length = rng.randrange(size + 1), rng.choice([0, 1, 1, 2, 8])
        noise = rng.randbytes(rng.choice([0, length, length, length + 1]))
        part(tensor, number, lambda old, at=at, length=length, noise=noise: old[:at] + noise + old[at + length :])(header, parts)
        sound += is_well_formed(path, sealed(header, parts))
    assert sound  # a codebook, for instance


def test_more_weights_than_allowed_are_refused(file):
    path, data = file
    assert not is_refused(path, data, 300 + 4 + 5 + 12)
    with pytest.raises(CorruptFileError, match="declares 321 weights; max_weights is 320"):
        storage.load(path, 320)


def test_no_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.load(tmp_path / "none.bin")
    with pytest.raises(FileNotFoundError):
        storage.inspect(tmp_path / "none.bin")


class Touch:
    """Pickled, a file of its own making when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_refused_unopened(tmp_path):
    (tmp_path / "pickled.bin").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    torch.save({"w": torch.ones(3)}, tmp_path / "torch.bin")
    for name in ("pickled.bin", "torch.bin"):
        with pytest.raises(CorruptFileError, match="begins with"):
            storage.load(tmp_path / name)
    assert not (tmp_path / "touched").exists()
    files = [path for module in (storage, coding) for path in Path(module.__file__).parent.glob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert not any(word in source for word in ("pickle", "torch.load(", "torch.save(", "np.load(", " eval("))


# Saving


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "network.bin"
    storage.save(example("ans"), path)

    def breaks(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", breaks)
    with pytest.raises(OSError, match="no space"):
        storage.save(example("ans", seed=1), path)
    assert same(storage.load(path), example("ans"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.bin"]


def test_a_header_that_could_not_be_read_again_is_not_written(tmp_path):
    tensors = {f"{i}{'x' * 500}": torch.zeros(1) for i in range(2200)}
    with pytest.raises(ValueError, match="header of 2200 tensors"):
        storage.save(CompressedNetwork("", tensors, "fixed"), tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


FIELDS = dict(
    shape=torch.Size([10]), codebook=torch.tensor([1.0, 2.0]), codes=torch.tensor([0, 1]), gaps=torch.tensor([1, 4]), index_bits=2
)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("codes goes from 0 to 2; allowed are 0 to 1", dict(codes=torch.tensor([0, 2]))),
        ("codes goes from -1", dict(codes=torch.tensor([0, -1]))),
        ("codes is torch.float32", dict(codes=torch.tensor([0.0, 1.0]))),
        ("codes is torch.bool", dict(codes=torch.tensor([True, False]))),
        (r"codes is torch.int64 of shape \(1, 2\)", dict(codes=torch.tensor([[0, 1]]))),
        (r"codes is torch.int64 of shape \(\)", dict(codes=torch.tensor(0))),
        ("gaps goes from 0", dict(gaps=torch.tensor([0, 4]))),
        ("gaps goes from 1 to 5; allowed are 1 to 4", dict(gaps=torch.tensor([1, 5]))),
        ("gaps has 1 entries for 2 codes", dict(gaps=torch.tensor([1]))),
        ("gaps has 2 entries for 2 codes and 0 index bits", dict(gaps=torch.tensor([1, 1]), index_bits=0)),
        ("gaps lead to place 4; the tensor has 4 weights", dict(shape=torch.Size([2, 2]))),
        ("all 10 weights need one", dict(gaps=torch.tensor([]).int(), index_bits=0)),
        ("index_bits is 17", dict(index_bits=17)),
        ("index_bits is True", dict(index_bits=True)),
        (r"codebook is torch.float32 of shape \(0,\)", dict(codebook=torch.zeros(0))),
        (r"codebook is torch.float32 of shape \(65537,\)", dict(codebook=torch.zeros(65537))),
        ("codebook is torch.float64", dict(codebook=torch.zeros(2, dtype=torch.float64))),
        ("shape is", dict(shape=torch.Size([1] * 65))),
        ("shape is", dict(shape=torch.Size([-2, -5]))),
    ],
)
def test_a_coded_tensor_whose_fields_do_not_fit_is_refused(message, fields):
    CodedTensor(**FIELDS)
    with pytest.raises(ValueError, match=message):
        CodedTensor(**(FIELDS | fields))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("coder is 'zip'; allowed are fixed, huffman, ans", ("", {}, "zip")),
        ("tensor 'w' is torch.float64; .*torch.float32, torch.float16, torch.int64", ("", {"w": torch.zeros(1).double()}, "ans")),
        ("tensor 'w' is <class 'list'>", ("", {"w": [1.0]}, "ans")),
        ("tensor 1 ", ("", {1: torch.zeros(1)}, "ans")),
        ("network is None", (None, {}, "ans")),
    ],
)
def test_a_network_that_cannot_be_stored_is_refused(message, arguments):
    with pytest.raises(ValueError, match=message):
        CompressedNetwork(*arguments)


@given(width=st.integers(0, 31), seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40))
def test_packed_codes_come_back(width, seed, count):
    codes = torch.randint(0, 2**width, (count,), generator=torch.Generator().manual_seed(seed))
    packed = coders.pack_bits(codes, width)
    number = int("0" + "".join(f"{code:0{width}b}" for code in codes.tolist() if width), 2) << -count * width % 8
    assert bytes(packed.tolist()) == number.to_bytes(len(packed), "big") and len(packed) == math.ceil(count * width / 8)
    assert np.array_equal(coders.unpack_bits(packed, width, count), codes)


@pytest.mark.parametrize(("width", "codes"), [(2, [4]), (2, [-1]), (0, [1]), (32, [0]), (-1, [0])])
def test_codes_that_do_not_fit_are_not_packed(width, codes):
    with pytest.raises(ValueError, match="width is|codes go"):
        coders.pack_bits(torch.tensor(codes), width)
