"""Images and labels, in whatever form they come: a split in memory, a DataLoader, a list of batches."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Images and their labels; unpacks as `images, labels = split`."""

    images: Tensor  # (N, C, height, width) float32, normalised
    labels: Tensor  # (N,) int64

    def take(self, count: int, seed: int = 0) -> "Split":
        """Return `count` examples drawn without replacement; all of them where there are not more.

        Raises:
            ValueError: `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count is {count}; allowed are 0 and more")
        chosen = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))[:count]
        chosen = chosen.to(self.labels.device)
        return Split(self.images[chosen], self.labels[chosen])


Batches = Split | Iterable[tuple[Tensor, Tensor]]  # any re-iterable of (images, labels), or a split


def batched(batches: Batches, size: int = 500, device: torch.device | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels): a split in pieces of `size`, any other batches as they are.

    Args:
        batches: a split; or a DataLoader, a list or anything else that can be iterated over more than once.
        size: images of a piece of a split.
        device: where the yielded tensors lie; default where they are.

    Raises:
        ValueError: `batches` holds no images, can be read only once, or yields something else than images and labels of
            the same number; images that are not finite; a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; allowed are 1 and above")
    if isinstance(batches, Split):
        batches = list(zip(batches.images.split(size), batches.labels.split(size), strict=True))
    if iter(batches) is batches:
        raise ValueError(f"batches is a {type(batches).__name__}, which can be read only once; pass a list or a DataLoader")
    empty = True
    for pair in batches:
        images, labels = _pair(pair)
        if len(images):
            empty = False
            yield images.to(device), labels.to(device)
    if empty:
        raise ValueError("batches holds no images; there is nothing to measure on")


def example(batches: Batches) -> Tensor:
    """Return the first image, as a batch (1, ...) with which a network can be traced. Raises ValueError as `batched`."""
    return next(batched(batches))[0][:1]


def _pair(pair: object) -> tuple[Tensor, Tensor]:
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        raise ValueError(f"batches yields a {type(pair).__name__}; expected (images, labels), two tensors")
    images, labels = pair
    if images.dim() < 2 or labels.dim() < 1 or len(images) != len(labels):
        raise ValueError(
            f"batches yields images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}; "
            "expected (N, ...) and (N,), as a DataLoader yields them"
        )
    if images.is_floating_point() and not images.isfinite().all():
        raise ValueError("batches yields images that hold NaN or infinity")
    return images, labels
