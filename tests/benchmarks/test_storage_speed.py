"""The compressed file: seconds for 10 million weights, and decoding against a Huffman decoder in plain Python."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from course_lib import storage
from course_lib.storage import CodedTensor, CompressedNetwork


def sparse(weights: int, kept: float) -> CodedTensor:
    """Random places; 32 codes of the values' bell shape, 5 bits a gap, fillers where a gap is longer."""
    generator = torch.Generator().manual_seed(0)
    places = (torch.rand(weights, generator=generator) < kept).nonzero().flatten()
    codes = (torch.randn(len(places), generator=generator) * 5 + 16).clamp(0, 30).int()
    steps = places.diff(prepend=torch.tensor([-1]))
    fillers = (steps - 1) // 32
    ends = (fillers + 1).cumsum(0) - 1  # where the entries themselves are
    gaps = torch.full((int(ends[-1]) + 1,), 32)
    gaps[ends] = steps - 32 * fillers
    stored = torch.full_like(gaps, 31).index_put_((ends,), codes.long())
    return CodedTensor(torch.Size([weights]), torch.cat([torch.linspace(-1, 1, 31), torch.zeros(1)]), stored, gaps, 5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Plain Python has one; and on a busy machine torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seconds(function: Callable, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@pytest.mark.parametrize("coder", ["fixed", "huffman", "ans"])
def test_ten_million_weights_are_saved_and_loaded_within_ten_seconds(tmp_path, benchmark, coder):
    network = CompressedNetwork("", {"weight": sparse(10_000_000, 0.1)}, coder)

    def there_and_back() -> CompressedNetwork:
        storage.save(network, tmp_path / "network.bin")
        return storage.load(tmp_path / "network.bin")

    loaded = benchmark.pedantic(there_and_back, rounds=3)
    took, size = benchmark.stats.stats.median, (tmp_path / "network.bin").stat().st_size
    print(f"\n{coder}: {took:.2f} s to save and load 10 M weights, {size / 1e6:.2f} MB")
    assert torch.equal(loaded.state_dict()["weight"], network.state_dict()["weight"])
    assert took < 10


def test_decoding_is_twenty_times_faster_than_plain_python(tmp_path, benchmark):
    dahuffman = pytest.importorskip("dahuffman")
    tensor, path = sparse(400_000, 0.1), Path(tmp_path / "network.bin")
    storage.save(CompressedNetwork("", {"weight": tensor}, "huffman"), path)
    streams = [tensor.codes.tolist(), tensor.gaps.tolist()]
    codecs = [dahuffman.HuffmanCodec.from_data(stream) for stream in streams]
    coded = [codec.encode(stream) for codec, stream in zip(codecs, streams, strict=True)]

    def in_python() -> None:
        for codec, data, stream in zip(codecs, coded, streams, strict=True):
            assert codec.decode(data) == stream

    usual = statistics.median(seconds(in_python) for _ in range(5))
    benchmark.pedantic(storage.load, (path,), rounds=30, warmup_rounds=2)
    ratio = usual / benchmark.stats.stats.median
    print(f"\nplain Python {1e3 * usual:.1f} ms, the whole file {1e3 * benchmark.stats.stats.median:.2f} ms: {ratio:.0f}x")
    benchmark.extra_info["times faster"] = ratio
    assert ratio >= 20
