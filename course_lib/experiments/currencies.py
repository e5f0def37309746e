"""What a network costs in five currencies, and by how many times each arm of the comparison costs less than the whole network.

Bytes, MACs and the estimated energy follow from a row. Times are of this machine: the rows of trained arms were timed on GPUs,
and every arm of a network and rate has the same shape, so that shapes are timed and not arms.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import cost, machine, models, surgery
from course_lib.experiments import equal_shapes, points_lost, rows

# column of a row -> what a reader calls it
CURRENCIES = {
    "bytes": "bytes of the file",
    "macs": "MACs",
    "latency_1": "time for 1 image",
    "latency_64": "time for 64 images",
    "energy": "energy for 1 image, estimated",
}
DENSE, OF_16 = "dense", "multiples of 16"
# Filters of a layer -> how many stay, for slightly fewer MACs than the uniform plan has; in whole blocks of 16
WIDTHS_OF_16 = {("vgg-small", 2): {32: 16, 64: 48, 128: 96}}
LATENCIES = ("latency_1", "latency_64")
ROUNDS = 4  # of measuring


def energy(file_bytes: float, macs: float) -> float:
    """Return the estimated joules for one image: the file is read once from DRAM, and every MAC is computed in float32."""
    mac = cost.ENERGY_PJ["float multiply"] + cost.ENERGY_PJ["float add"]
    return 1e-12 * (file_bytes / 4 * cost.ENERGY_PJ["dram"] + macs * mac)


@functools.cache
def whole(network: str) -> Mapping[str, float]:
    """Return bytes, MACs and energy of a network of `models.build` before any compression."""
    model = models.build(network).eval()
    macs, size = cost.count(model, models.example_input(network)).MACs.sum(), rows.file_bytes(model)
    return dict(bytes=size, macs=int(macs), energy=energy(size, macs))


def prices(found: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Return all arms, a line per trained network: points lost, and how many times less each costs, in a column per currency.

    Args:
        found: rows of the comparison.
        times: as `shape_times` or `recorded_times` give them; shapes that are not in it have no times.
    """
    lines = pd.concat([points_lost.arms(found), points_lost.files(found)], ignore_index=True)
    lines["energy"] = energy(lines.bytes, lines.macs)
    for currency in ("bytes", "macs", "energy"):
        lines[currency] = [whole(network)[currency] for network in lines.network] / lines[currency]
    faster = _speedups(times)
    for currency in LATENCIES:
        shapes = zip(lines.network, lines.rate, strict=True)
        lines[currency] = [faster.get((*shape, currency), math.nan) for shape in shapes]
    lines.loc[lines.method == DENSE, list(CURRENCIES)] = 1.0
    return lines


def _speedups(times: pd.DataFrame) -> dict[tuple[str, float, str], float]:
    """(network, rate, currency) -> how many times faster the shape of the arms is than the whole network."""
    found = {}
    for (network, rate), group in times.groupby(["network", "rate"]) if len(times) else ():
        plans = group.groupby("plan")[list(LATENCIES)].mean()
        for currency in LATENCIES:
            found[network, rate, currency] = plans[currency][DENSE] / plans[currency][equal_shapes.UNIFORM]
    return found


def recorded_times(found: pd.DataFrame) -> pd.DataFrame:
    """Return the recorded times of shapes that were measured on a processor: milliseconds, a line per network, rate and plan."""
    lines = found[(found.kind == "latency") & found.device.str.startswith("CPU")]
    if lines.empty:
        return pd.DataFrame(columns=["network", "rate", "plan", *LATENCIES])
    return lines.groupby(["network", "rate", "plan"])[list(LATENCIES)].mean().reset_index()


def shape_times(shapes: Iterable[tuple[str, int]], *, seconds: float = 0.2) -> pd.DataFrame:
    """Return MACs and measured milliseconds on one thread of this machine's processor, a line per plan of each shape.

    Only shapes count here, so the weights are random.

    Args:
        shapes: pairs of network and rate.
        seconds: of measuring, for each plan and batch.
    """
    table = []
    for network, rate in shapes:
        image, plans = models.example_input(network), networks_of(network, rate)
        times = _milliseconds(plans, image, seconds)
        for plan, model in plans.items():
            macs = dict(macs=in_blocks(model, image, 1), in_blocks=in_blocks(model, image, block()))
            table.append(dict(network=network, rate=rate, plan=plan) | macs | times[plan])
    return pd.DataFrame(table)


def _milliseconds(plans: Mapping[str, nn.Module], image: Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """Best times of 1 and 64 images by plan; in rounds, so that a disturbance does not hit one plan alone."""
    best = {plan: dict.fromkeys(LATENCIES, math.inf) for plan in plans}
    for currency, count in zip(LATENCIES, (1, 64), strict=True):
        images = torch.randn(count, *image.shape[1:])
        for _ in range(ROUNDS):
            for plan, model in plans.items():
                took = 1e3 * machine.best_seconds(partial(model, images), seconds=seconds / ROUNDS)
                best[plan][currency] = min(best[plan][currency], took)
    return best


def networks_of(network: str, rate: int) -> dict[str, nn.Module]:
    """Return the whole network with random weights, and narrower ones of about `rate` times fewer MACs, by plan."""
    model, image = models.build(network).eval(), models.example_input(network)
    plans = {
        equal_shapes.UNIFORM: equal_shapes.for_macs(model, rate, image),
        equal_shapes.MULTIPLES: equal_shapes.in_multiples_of_8(model, network, rate, image),
    }
    if (network, rate) in WIDTHS_OF_16:
        of = WIDTHS_OF_16[network, rate]
        plans[OF_16] = {layer: of[len(model.get_submodule(layer).weight)] for layer in plans[equal_shapes.UNIFORM]}
    narrow = {plan: {layer: range(keep) for layer, keep in widths.items()} for plan, widths in plans.items()}
    return {DENSE: model} | {plan: surgery.narrow(model, kept, image) for plan, kept in narrow.items()}


def block() -> int:
    """Return how many float32 numbers a vector register of this processor holds, as far as torch uses it."""
    return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)


def in_blocks(model: nn.Module, example_input: Tensor, size: int) -> int:
    """Return the MACs of one image if every layer computes its input and output channels in whole blocks.

    The channels of the image itself are not rounded up.

    Args:
        model: a network of dense layers and ungrouped convolutions.
        example_input: an image (1, ...) on the model's device.
        size: channels of a block; 1 counts MACs as usual.
    """
    total = 0
    for name, macs in cost.count(model, example_input).MACs.items():
        if macs:
            outputs, inputs = model.get_submodule(name).weight.shape[:2]
            read = inputs if inputs == example_input.shape[1] else _rounded(inputs, size)
            total += macs // (inputs * outputs) * read * _rounded(outputs, size)
    return int(total)


def _rounded(channels: int, size: int) -> int:
    return -(-channels // size) * size


def stairs(widths: Iterable[int], *, seconds: float = 0.1) -> pd.Series:
    """Return the milliseconds of a 3x3 convolution by its number of input and output channels, on one thread.

    Args:
        widths: numbers of channels.
        seconds: of measuring, for each.
    """
    times = {}
    for width in widths:
        convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        images = torch.randn(16, width, 16, 16)
        times[width] = 1e3 * machine.best_seconds(partial(convolution, images), seconds=seconds)
    return pd.Series(times)
