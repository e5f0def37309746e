"""ThiNet's greedy choice against the textbook loop, both in one run, with the same choice."""

import time

import numpy as np
import torch

from course_lib.papers import thinet as paper

CHANNELS, SAMPLES, REMOVE = 512, 10_000, 256


def problem(samples: int) -> torch.Tensor:
    """(samples, 512) float64: rectified and of unequal size, as contributions are."""
    generator = torch.Generator().manual_seed(0)
    size = torch.randn(CHANNELS, generator=generator, dtype=torch.float64)
    return torch.randn(samples, CHANNELS, generator=generator, dtype=torch.float64).relu() * size


def with_a_running_sum(x: np.ndarray, remove: int) -> list[int]:
    """The loop with the sum of what is removed kept: each candidate is added to it and squared, sample by sample."""
    total, removed = np.zeros(len(x)), []
    for _ in range(remove):
        rest = [c for c in range(x.shape[1]) if c not in removed]
        values = [np.square(total + x[:, c]).sum() for c in rest]
        removed.append(rest[int(np.argmin(values))])
        total += x[:, removed[-1]]
    return removed


def as_printed(x: np.ndarray, remove: int) -> list[int]:
    """Algorithm 1 to the letter: each candidate set is summed anew."""
    removed: list[int] = []
    for _ in range(remove):
        rest = [c for c in range(x.shape[1]) if c not in removed]
        values = [np.square(x[:, [*removed, c]].sum(1)).sum() for c in rest]
        removed.append(rest[int(np.argmin(values))])
    return removed


def seconds(call, *arguments) -> tuple[float, list[int]]:
    start = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - start, result


def test_greedy_removal_is_a_hundred_times_faster_than_the_textbook_loop(benchmark):
    x = problem(SAMPLES)
    fast = benchmark.pedantic(paper.greedy_removal, (x, REMOVE), rounds=7, warmup_rounds=1)
    took = benchmark.stats.stats.min
    usual, slow = seconds(with_a_running_sum, x.numpy(), REMOVE)
    # To the letter it would take half an hour; a tenth of the samples and the first 32 channels take seconds
    few = problem(SAMPLES // 10)
    printed, slowest = seconds(as_printed, few.numpy(), 32)
    again = min(seconds(paper.greedy_removal, few, 32)[0] for _ in range(3))
    sizes = f"{CHANNELS} channels, {SAMPLES:,} samples, {REMOVE} removed"
    print(f"\n{sizes}: {took:.3f} s; with a running sum {usual:.1f} s: {usual / took:.0f}x")
    print(f"{len(few):,} samples, 32 removed: {again:.4f} s; as printed {printed:.1f} s: {printed / again:.0f}x")
    benchmark.extra_info["times faster"] = usual / took
    assert fast.tolist() == slow
    assert paper.greedy_removal(few, 32).tolist() == slowest
    assert usual / took >= 100 and printed / again >= 100


def test_matching_pursuit_takes_a_second(benchmark):
    x = problem(SAMPLES)
    benchmark.pedantic(paper.matching_pursuit, (x, REMOVE), rounds=3, warmup_rounds=1)
    print(f"\nmatching pursuit, {REMOVE} of {CHANNELS} kept: {benchmark.stats.stats.median:.3f} s")
    assert benchmark.stats.stats.median < 1
