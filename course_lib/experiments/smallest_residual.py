"""The same steps on a network with batch norms and shortcuts: ResNet-20 on CIFAR-10, pruned and quantized by `smallest`.

Three things differ from the LeNets. Nothing is trimmed, as the shortcuts tie the widths of most layers together. The teachers are
the course's three trained ResNet-20s, and copies of an image are shifted and mirrored instead of warped. And a network with
shortcuts is not homogeneous: a layer's scale changes the sum that a shortcut enters. It goes into the batch norm, of which the
file holds one factor and one summand per channel.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import distillation, models, smallest
from course_lib.data import Splits
from course_lib.distillation import Examples
from course_lib.experiments import rows
from course_lib.experiments.compressed_files import file_size
from course_lib.experiments.first_stage import only_pruned
from course_lib.masks import weight_layers
from course_lib.storage import CodedTensor, CompressedNetwork
from course_lib.streams import stream
from course_lib.training import fastest_precision
from course_lib.training.augmentation import augmented

NETWORK = "resnet-20"
NORM_LEVELS = 63  # on either side of zero, of a batch norm's factors and summands
INSTALMENTS = (0.5, 0.75, 0.9, 0.97, 1.0)  # fewer than those of the LeNets, as an epoch takes a minute and not a second


class InFastPrecision(nn.Module):
    """A network whose convolutions are computed as in training, in bfloat16 where that is faster; its scores are float32."""

    def __init__(self, network: nn.Module, device: torch.device):
        super().__init__()
        self.network, self.precision, self.device = network, fastest_precision(network, device), device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.network(x.contiguous(memory_format=torch.channels_last)).float()


def residual(setting: dict, splits: Splits, work: Mapping[str, Any], dense: nn.Module, seed: int) -> dict:
    """The rows of ResNet-20 after pruning and after coding, for each number of weights."""
    device = splits.test.images.device
    given = examples(splits, setting, seed)
    model, points, epochs = InFastPrecision(copy.deepcopy(dense), device), [], 0
    for number, (keep, more) in enumerate(zip(setting["keeps"], setting["pruning"], strict=True)):
        smallest.prune(model, given, keep, epochs=more, seed=stream(seed, "prune", number), lr=setting["lr"])
        epochs, mark = epochs + more, dict(keep=keep)
        file = only_pruned(model.network, index_bits=8, coder="huffman")
        points.append(_point("pruned", model.network, splits, epochs, file) | mark)
        quantized = copy.deepcopy(model)
        taken = quantize(quantized, given, setting, seed)
        before = rows.percent(quantized.network, splits.validation)
        file = compressed(quantized.network, taken)
        total = epochs + setting["quantizing"]
        points.append(_point("coded", decoded(file), splits, total, file) | mark | dict(before_norms=before))
    precision = str(model.precision).removeprefix("torch.")
    return dict(method="pipeline", precision=precision, lr=setting["lr"], points=points) | rows.latencies(decoded(file), splits)


def examples(splits: Splits, setting: dict, seed: int) -> Examples:
    """Return the training images, shifted and mirrored copies of them, and the mean logits of the trained ResNet-20s."""
    images, device = splits.train.images, splits.train.images.device
    random = torch.Generator(device).manual_seed(stream(seed, "copies"))
    copies = [torch.cat([augmented(part, "crop-flip", random) for part in images.split(1000)]) for _ in range(setting["copies"])]
    given = torch.stack([images, *copies])
    teachers = [models.pretrained(NETWORK, splits.name, teacher).to(device) for teacher in range(setting["teachers"])]
    logits = [distillation.logits_of(InFastPrecision(teacher, device), given) for teacher in teachers]
    return Examples(given, torch.stack(logits).mean(0), splits.train.labels)


def quantize(model: nn.Module, given: Examples, setting: dict, seed: int) -> dict[nn.Parameter, float]:
    """Round the weights of a pruned network to levels in place, and return their steps; batch norms are trained on."""
    taken = smallest.steps(model, given, setting["coarseness"], seed=stream(seed, "sensitivity"))
    taken = {parameter: step for parameter, step in taken.items() if parameter.dim() > 1}
    smallest.quantize(
        model, given, taken, epochs=setting["quantizing"], seed=stream(seed, "quantize"), instalments=INSTALMENTS,
    )  # fmt: skip
    return taken


def norms(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield each batch norm with the convolution before it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d):
            yield convolution, module


@torch.no_grad()
def compressed(model: nn.Module, taken: Mapping[nn.Parameter, float]) -> CompressedNetwork:
    """Return the content of the file: integers for weights, and of each batch norm a factor and a summand per channel.

    A factor absorbs the step of the convolution before it. Factors and summands have 127 levels each, of which the outermost is
    the largest magnitude in their layer.
    """
    tensors: dict[str, CodedTensor | Tensor] = {
        f"{name}.weight": smallest.coded((module.weight / taken[module.weight]).round(), 1.0)
        for name, module in weight_layers(model).items()
    }
    values = [model.fc.bias]
    for convolution, norm in norms(model):
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        values += [factor * taken[convolution.weight], norm.bias - norm.running_mean * factor]
    units = [value.abs().max() / NORM_LEVELS for value in values]
    levels = [(value / unit).round() for value, unit in zip(values, units, strict=True)]
    scale = model.fc.weight.new_tensor(taken[model.fc.weight])
    tensors |= {"others": smallest.coded(torch.cat(levels), 1.0), "units": torch.stack([*units, scale]).cpu()}
    return CompressedNetwork("", tensors, "context")


def decoded(file: CompressedNetwork) -> nn.Module:
    """Return the network that a file of `compressed` holds."""
    tensors = file.state_dict()
    model = models.build(NETWORK).eval()
    units, others = tensors.pop("units"), tensors.pop("others")
    model.load_state_dict(tensors, strict=False)
    pairs = list(norms(model))
    sizes = [10] + [len(norm.weight) for _, norm in pairs for _ in range(2)]
    bias, *rest = [levels * unit for levels, unit in zip(others.split(sizes), units, strict=False)]
    model.fc.weight.data *= units[-1]
    model.fc.bias.data = bias
    for (_, norm), factor, summand in zip(pairs, rest[::2], rest[1::2], strict=True):
        norm.weight.data, norm.bias.data = factor * (1 + norm.eps) ** 0.5, summand  # the running variance is 1, the mean 0
    return model


def _point(stage: str, model: nn.Module, splits: Splits, epochs: float, file: CompressedNetwork) -> dict[str, Any]:
    """The figures of a network after a step, with the bytes of a file of it."""
    return dict(stage=stage, epochs=epochs) | rows.outcome(model, splits, timed=False) | dict(bytes=file_size(file))
