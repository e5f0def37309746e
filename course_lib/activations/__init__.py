"""Inputs and outputs of layers, seen by hooks, and sampled at random positions of their feature maps."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import Batches, Split, batched
from course_lib.modes import evaluating
from course_lib.streams import stream

BATCH = 100  # images of a split in a forward pass
Reader = Callable[[nn.Module, Tensor, Tensor], Any]  # (module, its input, its output) -> what is wanted of them


class Sample(NamedTuple):
    """A batch of images and, by a seed, random positions in their feature maps: the same ones for every layer and network."""

    images: Tensor
    positions: int  # K, in each feature map
    seed: int

    def places(self, feature_maps: Tensor) -> tuple[Tensor, ...]:
        """Rows and columns, (B, K) each, in feature maps (B, n, H, W); drawn with replacement."""
        random = torch.Generator().manual_seed(self.seed)
        shape = len(feature_maps), self.positions
        return tuple(torch.randint(n, shape, generator=random).to(feature_maps.device) for n in feature_maps.shape[2:])

    def at(self, feature_maps: Tensor) -> Tensor:
        """Feature maps (B, n, H, W) at these positions, (B K, n). The output of a dense layer, (B, n), has no positions."""
        if feature_maps.dim() == 2:
            return feature_maps
        rows, columns = self.places(feature_maps)
        batch = torch.arange(len(rows), device=rows.device)[:, None]
        return feature_maps[batch, :, rows, columns].flatten(0, 1)

    def patches(self, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The part of a layer's input, (B, c, H, W) and the padding, from which it computes `at(outputs)`: (B K, c, kh kw)."""
        if isinstance(layer, nn.Linear):
            return inputs[:, :, None]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)  # also where padding is 'same'
        rows, columns = (
            start[..., None] * stride + torch.arange(size, device=start.device) * dilation  # (B, K, kh) and (B, K, kw)
            for start, stride, size, dilation in zip(
                self.places(outputs), layer.stride, layer.kernel_size, layer.dilation, strict=True
            )
        )
        batch = torch.arange(len(rows), device=rows.device)[:, None, None, None]
        found = inputs[batch, :, rows[..., :, None], columns[..., None, :]]  # (B, K, kh, kw, c)
        return found.flatten(0, 1).flatten(1, 2).transpose(1, 2)

    def pair(self, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """`patches`, and the outputs that the layer computed from them."""
        return self.patches(layer, inputs, outputs), self.at(outputs)


def samples_of(batches: Batches, images: int, positions: int, seed: int, device: torch.device) -> Iterator[Sample]:
    """Yield `images` images in batches, each with random positions of its own, on `device`.

    Args:
        batches: of a longer split a random draw, the same one at each call; of other batches the first ones.
        images: how many, at least 2.
        positions: in each feature map, at least 1.
        seed: of the draw and of the positions.
        device: where the images are to lie.

    Raises:
        ValueError: `images` or `positions` is too small, or what `batched` refuses.
    """
    check_counts(images, positions)
    if isinstance(batches, Split) and len(batches.labels) > images:
        batches = batches.take(images, seed)
    for number, (batch, _labels) in enumerate(batched(batches, BATCH, device)):
        yield Sample(batch[:images], positions, stream(seed, "positions", number))
        images -= len(batch)
        if images <= 0:
            return


def check_counts(images: int, positions: int) -> None:
    """Raise ValueError where there are too few images or positions to fit anything to."""
    for name, found, least in (("images", images, 2), ("positions", positions, 1)):
        if found < least:
            raise ValueError(f"{name} is {found}; allowed are {least} and above")


class Enough(Exception):
    """All that was asked for has been seen; the forward pass ends here."""


def watch(model: nn.Module, readers: Mapping[str, Reader], images: Tensor) -> dict[str, Any]:
    """Return what each reader makes of its module's input and output; the forward pass ends when all have read.

    Raises:
        ValueError: one of them is a dense layer whose inputs are not (N, c), as one on tokens.
    """
    found: dict[str, Any] = {}

    def read(name: str, *seen) -> None:
        check_vectors(name, *seen[:2])
        found[name] = readers[name](*seen)  # at once: an operation in place may follow
        if len(found) == len(readers):
            raise Enough

    with hooked(model, {name: partial(read, name) for name in readers}), contextlib.suppress(Enough):
        model(images)
    return found


def check_vectors(name: str, layer: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError where a dense layer reads something else than (N, c), such as tokens: it cannot be sampled."""
    if isinstance(layer, nn.Linear) and inputs.dim() != 2:
        raise ValueError(f"layer {name!r} is a dense layer that reads {tuple(inputs.shape)}; only inputs (N, c) can be sampled")


@torch.no_grad()
def readable(model: nn.Module, layers: Iterable[str], example_input: Tensor) -> list[str]:
    """Return those of the layers that can be sampled: convolutions, and dense layers whose inputs are (N, c)."""
    found: list[str] = []

    def read(name: str, module: nn.Module, inputs: Tensor, _outputs: Tensor) -> None:
        if not isinstance(module, nn.Linear) or inputs.dim() == 2:
            found.append(name)

    with evaluating(model), hooked(model, {name: partial(read, name) for name in layers}):
        model(example_input)
    return found


@contextlib.contextmanager
def hooked(model: nn.Module, readers: Mapping[str, Callable]) -> Iterator[None]:
    """Call each reader with (module, input, output) whenever its module has run; afterwards the hooks are gone."""

    def hook(read: Callable) -> Callable:
        def call(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            read(module, inputs[0], output)

        return call

    hooks = [model.get_submodule(name).register_forward_hook(hook(read)) for name, read in readers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
