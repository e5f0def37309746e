"""What a network costs: parameters, multiply-accumulates, bytes, latency, energy.

Counts of operations are of one image. 'Kept' figures are those of an ideal engine that skips every zero weight; latency is
measured as the network runs here, zeros included: the two differ, and students should see by how much.
"""

import statistics
import tempfile
import timeit
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib.activations import hooked
from course_lib.modes import evaluating

# Energy of an operation on 32 bits in 45 nm CMOS, pJ (Horowitz 2014, as Han et al. 2015 quote it in their table 1).
ENERGY_PJ = {
    "int add": 0.1,
    "float add": 0.9,
    "register": 1.0,
    "int multiply": 3.1,
    "float multiply": 3.7,
    "sram": 5.0,
    "dram": 640.0,
}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Report:
    """The costs of a network; prints as a table, against `baseline` with ratios."""

    layers: pd.DataFrame  # a row per layer: weights, nonzeros, kept, MACs, MACs kept; 'biases and norms' last
    bytes_dense: int  # float32 parameters
    bytes_sparse: int  # each weight matrix in the cheaper of dense and CSR
    bytes_on_disk: int  # size of the file that `write` makes of it, header included
    latency: float  # seconds for the batch, median, warm
    batch: int
    baseline: "Report | None" = None

    def totals(self) -> pd.Series:
        """Return all figures by name; bytes, seconds, and energies in joules for one image."""
        sums = self.layers[["weights", "nonzeros", "MACs", "MACs kept"]].sum()
        compute = sums["MACs kept"] * (ENERGY_PJ["float multiply"] + ENERGY_PJ["float add"])
        return pd.Series(
            {
                "parameters": sums["weights"],
                "nonzero parameters": sums["nonzeros"],
                "MACs": sums["MACs"],
                "MACs with nonzero weights": sums["MACs kept"],
                "bytes, dense": self.bytes_dense,
                "bytes, sparse": self.bytes_sparse,
                "bytes on disk, sparse": self.bytes_on_disk,
                f"latency of {self.batch} image(s)": self.latency,
                "energy, weights in DRAM": (sums["nonzeros"] * ENERGY_PJ["dram"] + compute) * 1e-12,
                "energy, weights in SRAM": (sums["nonzeros"] * ENERGY_PJ["sram"] + compute) * 1e-12,
            }
        )

    @property
    def speedup(self) -> float:
        """How many times faster than the baseline it is. Raises ValueError without a baseline."""
        if self.baseline is None:
            raise ValueError("the report has no baseline to be faster than; give one to `report`")
        return self.baseline.latency / self.latency

    def frame(self) -> pd.DataFrame:
        """Return the table that is printed: the quantity, its value, and with a baseline the value there and the ratio."""
        here = self.totals()
        table = pd.DataFrame({"quantity": here.index, "here": [_text(name, value) for name, value in here.items()]})
        if self.baseline is not None:
            there = self.baseline.totals()
            table.insert(1, "baseline", [_text(name, value) for name, value in there.items()])
            table["ratio"] = [f"{a / b:.2f}x" if b else "-" for a, b in zip(there, here, strict=True)]
        return table

    def __str__(self) -> str:
        return self.frame().to_string(index=False)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False, border=0)


def report(model: nn.Module, example_input: Tensor, baseline: Report | None = None) -> Report:
    """Return the costs of `model`, counted and measured in evaluation mode; it is left as it was.

    Energies suppose that each non-zero weight is fetched once an image and multiplied as often as its layer needs it
    (batch 1, an engine that skips zeros, activations not counted).

    Args:
        model: any network; operations and zeros are told apart for its dense and convolutional layers.
        example_input: a batch (N, ...) on the model's device.
        baseline: a report to compare with, of the same batch size.

    Raises:
        ValueError: `example_input` is no tensor or an empty batch, or the baseline is of another batch size.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or len(example_input) == 0:
        found = tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
        raise ValueError(f"example_input is {found}; expected a tensor (N, ...) with N of 1 or more")
    if baseline is not None and baseline.batch != len(example_input):
        raise ValueError(f"example_input is a batch of {len(example_input)}, the baseline was measured with {baseline.batch}")
    weights = [parameter.detach() for parameter in model.parameters()]
    return Report(
        layers=count(model, example_input),
        bytes_dense=sum(4 * weight.numel() for weight in weights),
        bytes_sparse=sum(min(4 * weight.numel(), csr_bytes(weight)) for weight in weights),
        bytes_on_disk=bytes_on_disk(model),
        latency=measure(model, example_input),
        batch=len(example_input),
        baseline=baseline,
    )


def count(model: nn.Module, example_input: Tensor) -> pd.DataFrame:
    """Return weights, non-zeros and MACs by layer, MACs for one image; `model` is left as it was.

    On the meta device, where only shapes are known, no weight counts as zero.
    """
    calls = _macs(model, example_input)
    rows, counted = {}, set()
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            weights, nonzeros = layer.weight.numel(), _nonzeros(layer.weight)
            macs = calls[layer] // len(example_input)
            rows[name] = (weights, nonzeros, nonzeros / weights, macs, macs * nonzeros / weights)
            counted.add(id(layer.weight))
    others = [parameter for parameter in model.parameters() if id(parameter) not in counted]
    total, nonzeros = sum(p.numel() for p in others), sum(_nonzeros(p) for p in others)
    rows["biases and norms"] = (total, nonzeros, nonzeros / total if total else 1.0, 0, 0.0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weights", "nonzeros", "kept", "MACs", "MACs kept"])


def _macs(model: nn.Module, example_input: Tensor) -> Counter:
    """Layer -> its MACs for the batch, over all of its calls: each output takes as many as a filter or row has weights."""
    macs: Counter = Counter()

    def add(layer: nn.Module, _inputs: Tensor, output: Tensor) -> None:
        macs[layer] += output.numel() * layer.weight[0].numel()

    layers = [name for name, layer in model.named_modules() if isinstance(layer, LAYERS)]
    with torch.no_grad(), evaluating(model), hooked(model, dict.fromkeys(layers, add)):
        model(example_input)
    return macs


def _nonzeros(parameter: Tensor) -> int:
    return parameter.numel() if parameter.is_meta else int(parameter.count_nonzero())


def measure(model: nn.Module, example_input: Tensor, seconds: float = 0.2) -> float:
    """Return the median seconds of a forward pass of the batch, in evaluation mode, warm, over about `seconds`.

    With torch's present number of threads. `torch.utils.benchmark.Timer` would take as many lines, and its import looks for
    compilers and warns where there is no CUDA.
    """

    def run() -> None:
        model(example_input)
        if example_input.is_cuda:
            torch.cuda.synchronize()

    with torch.inference_mode(), evaluating(model):
        once = statistics.median(timeit.repeat(run, repeat=3, number=1))
        return statistics.median(timeit.repeat(run, repeat=max(5, min(1000, int(seconds / once))), number=1))


def csr_bytes(weight: Tensor) -> int:
    """Return the bytes of a weight, seen as a matrix (n, rest), in compressed sparse rows of 4-byte numbers.

    2a + n + 1 numbers for a non-zeros in n rows: a value and a column each, and where the rows begin and end (Han et al.
    2016, section 2).
    """
    return 4 * (2 * int(weight.count_nonzero()) + len(weight) + 1)


def bytes_on_disk(model: nn.Module) -> int:
    """Return the size of a real file: every parameter in the cheaper of dense and CSR, as safetensors, header included."""
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().cpu().float()
        if csr_bytes(weight) >= 4 * weight.numel():
            tensors[name] = weight.contiguous().clone()
            continue
        matrix = weight.flatten(1) if weight.dim() > 1 else weight[:, None]
        places = matrix.nonzero()  # row by row
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), (matrix != 0).sum(1).cumsum(0)])
        tensors |= {f"{name}.values": matrix[matrix != 0], f"{name}.columns": places[:, 1].int(), f"{name}.rows": ends.int()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        return path.stat().st_size


def _text(name: str, value: float) -> str:
    """A figure with its unit, to three digits."""
    if name.startswith("bytes"):
        return f"{value / 1000:,.1f} kB"
    if name.startswith("latency"):
        return f"{1e3 * value:.3f} ms"
    if name.startswith("energy"):
        return f"{1e6 * value:.2f} uJ"
    return f"{value:,.0f}"
