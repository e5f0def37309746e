"""The check that removing channels is the same as setting them to zero, on a random input and with random weights.

Weights of the model itself could hide a wrong index: those of a batch norm that starts at zero, or those that were pruned.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_lib.surgery.wiring import CUTTABLE, Member, one_line

# Relative to the largest output. float32 takes half the time and memory; what is neither equal nor clearly different in it is
# computed again in float64
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
CERTAIN = 1e-2
POOL = 65_537  # random numbers, repeated where a layer has more weights; prime, so that no two rows are equal
STATISTICS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # of all channels: these change when a channel is removed


def remove(model: nn.Module, members: Sequence[Member]) -> None:
    """Removes, in place, the indices of all members from a model of the traced one's architecture."""
    for _, (member, indices) in _by_place(members).items():
        member.cut.__self__.pruning_dim = member.node.pruning_dim
        if member.is_parameter:
            parent, _, name = member.name.rpartition(".")
            setattr(model.get_submodule(parent), name, member.cut(model.get_parameter(member.name), indices))
        else:
            member.cut(model.get_submodule(member.name), indices)


def why_different(
    model: nn.Module, members: Sequence[Member], example_input: Tensor, spare: nn.Module | None = None
) -> str | None:
    """Return how the network without the members' channels differs from the one with them at zero; None where it does not.

    Both are copies of `model` in evaluation mode, with the same random weights, in float64. Compared are the network's outputs
    and those of the layers that read the channels. Layer and group norms, whose statistics change when a channel is removed, are
    replaced by their weights and biases alone, so that what is compared is which channel goes where.

    Args:
        model: any network; it is left as it was.
        members: what loses channels, by `wiring.Wiring.members`.
        example_input: a batch (N, ...) on the model's device.
        spare: a copy of `model` that is no longer needed; it saves making one.
    """
    device = "cpu" if example_input.device.type == "mps" else example_input.device  # where float64 exists
    for randomised, dtype in ((True, torch.float32), (True, torch.float64), (False, torch.float64), (False, torch.float32)):
        whole = copy.deepcopy(model) if spare is None else spare
        whole, spare = whole.to(device, dtype).eval().requires_grad_(False), None
        if randomised:
            _randomise(whole, device)
        images = _random_like(example_input, dtype, device)
        set_to_zero(whole, members)
        try:
            wanted = _watched(whole, members, images)
        except Exception:  # a forward that makes tensors of a dtype of its own, or takes no such random weights
            continue
        if not all(output.isfinite().all() for outputs in wanted.values() for output in outputs):
            continue
        remove(whole, members)
        try:
            found = _watched(whole, members, images)
        except Exception as error:
            return (
                "the model's forward has its width written into it, or adds the network's input to its channels "
                f"({one_line(error)})"
            )
        where, off = _largest_difference(wanted, found, _kept_rows(model, members))
        if off <= TOLERANCE[dtype]:
            return None
        if dtype == torch.float64 or not randomised or off > CERTAIN:
            return where
    return "it does not run, or gives no finite outputs"


@torch.no_grad()
def set_to_zero(model: nn.Module, members: Sequence[Member]) -> None:
    """Sets, in place, the weights to zero that compute and that read the members' channels."""
    for member, indices in _by_place(members).values():
        if member.is_parameter:
            model.get_parameter(member.name).movedim(member.node.pruning_dim, 0)[indices] = 0
            continue
        module = model.get_submodule(member.name)
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() == 0:
            continue
        if weight.dim() > 1:
            column_wise = member.reads != bool(getattr(module, "transposed", False)) or isinstance(module, nn.Embedding)
            weight.movedim(1 if column_wise else 0, 0)[indices] = 0
        if member.reads:
            continue
        for tensor in (weight, getattr(module, "bias", None), getattr(module, "running_mean", None)):
            if tensor is not None and tensor.dim() == 1 and len(tensor) > max(indices):
                tensor[indices] = 0


def _by_place(members: Sequence[Member]) -> dict[tuple, tuple[Member, list[int]]]:
    """Name and kind of cut -> the member, and all indices that go there: a concatenation may meet another layer's channels."""
    found: dict[tuple, tuple[Member, list[int]]] = {}
    for member in members:
        if member.name is not None:
            before = found.get((member.name, member.cut), (member, []))[1]
            found[member.name, member.cut] = member, sorted({*before, *member.indices()})
    return found


def _kept_rows(model: nn.Module, members: Sequence[Member]) -> dict[str, tuple[int, Tensor]]:
    """Of layers that lose outputs, the axis of their channels and the channels that stay."""
    kept = {}
    for member, indices in _by_place(members).values():
        if not member.is_parameter and isinstance(module := model.get_submodule(member.name), CUTTABLE) and not member.reads:
            gone = set(indices)
            rows = torch.tensor([row for row in range(len(module.weight)) if row not in gone])
            kept[member.name] = -1 if isinstance(module, nn.Linear) else -3, rows
    return kept


@torch.no_grad()
def _randomise(model: nn.Module, device) -> None:
    """Random weights of the size that keeps activations alive; no gain is near zero."""
    generator = torch.Generator(device).manual_seed(0)
    pool = torch.empty(POOL, dtype=torch.float64, device=device).uniform_(-1, 1, generator=generator)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                bound = (6 / max(1, parameter[0].numel())) ** 0.5
                _fill(parameter, pool * bound)
            elif name == "weight":
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.uniform_(-0.5, 0.5, generator=generator)
        if getattr(module, "running_mean", None) is not None and getattr(module, "running_var", None) is not None:
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


def _fill(weight: Tensor, numbers: Tensor) -> None:
    """The numbers over and over: copying them takes a tenth of the time of drawing as many."""
    flat = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) if not weight.is_contiguous() else weight
    numbers = numbers.to(weight.dtype)
    for part in flat.view(-1).split(len(numbers)):
        part.copy_(numbers[: len(part)])
    if flat is not weight:
        weight.copy_(flat)


def _random_like(example_input: Tensor, dtype: torch.dtype, device) -> Tensor:
    if not example_input.is_floating_point():
        return example_input.to(device)
    return torch.randn(example_input.shape, dtype=dtype, device=device, generator=torch.Generator(device).manual_seed(1))


@torch.inference_mode()
def _watched(model: nn.Module, members: Sequence[Member], images: Tensor) -> dict[str, list[Tensor]]:
    """The outputs of the layers that read the channels, by name, and under "" those of the network."""
    seen: dict[str, list[Tensor]] = {}
    readers = {member.name for member in members if member.name and member.reads}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.setdefault(name, []).extend(_clones(output))
        )
        for name in readers
    ]
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), _WithoutStatistics(model):
            torch.manual_seed(0)
            seen[""] = list(_clones(model(images)))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _clones(outputs) -> Iterator[Tensor]:
    """All floating-point tensors of a layer's or network's outputs, however nested, as they are now."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs.clone()
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _clones(value)
    elif isinstance(outputs, list | tuple):
        for value in outputs:
            yield from _clones(value)


class _WithoutStatistics(TorchFunctionMode):
    """Layer and group norm modules multiply by their weights and add their biases, and no more."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inside = 0
        self.norms = [module for module in model.modules() if isinstance(module, STATISTICS)]

    def __enter__(self):
        self.hooks = [norm.register_forward_pre_hook(lambda *_: self._step(1)) for norm in self.norms]
        self.hooks += [norm.register_forward_hook(lambda *_: self._step(-1)) for norm in self.norms]
        return super().__enter__()

    def __exit__(self, *failure):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*failure)

    def _step(self, by: int) -> None:
        self.inside += by

    def __torch_function__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))  # which refuses widths that do not fit
        if not self.inside or func.__name__ not in ("layer_norm", "group_norm", "rms_norm"):
            return outputs
        names = ("input", "widths", "weight", "bias") if func.__name__ != "rms_norm" else ("input", "widths", "weight")
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        outputs = given["input"]
        for name, apply in (("weight", torch.mul), ("bias", torch.add)):
            if (value := given.get(name)) is not None:
                if func.__name__ == "group_norm":
                    value = value.view(-1, *[1] * (outputs.dim() - 2))
                outputs = apply(outputs, value)
        return outputs


def _largest_difference(
    wanted: Mapping[str, list[Tensor]], found: Mapping[str, list[Tensor]], kept: Mapping[str, tuple[int, Tensor]]
) -> tuple[str, float]:
    """Where the outputs differ most, in words, and by how much, as a share of the largest output there."""
    worst = "", 0.0
    for name, outputs in wanted.items():
        where = f"the outputs of {name!r}" if name else "the network's outputs"
        if len(outputs) != len(found.get(name, [])):
            return f"{where} are {len(found.get(name, []))} tensors instead of {len(outputs)}", torch.inf
        for expected, output in zip(outputs, found[name], strict=True):
            if name in kept:
                axis, rows = kept[name]
                expected = expected.index_select(axis, rows.to(expected.device))
            if expected.shape != output.shape:
                return f"{where} have shape {tuple(output.shape)} instead of {tuple(expected.shape)}", torch.inf
            if expected.numel():
                off = ((output - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).nan_to_num(torch.inf).item()
                worst = max(worst, (f"{where} are then off by {100 * off:.2g} %", off), key=lambda found: found[1])
    return worst
